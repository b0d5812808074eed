"""Replaces Mailpit if its image is not available: accepts every mail on port 1025 and lists them on port 8025 like Mailpit's API."""

import email
import email.policy
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aiosmtpd.controller import Controller

MAILS = []


class Keep:
    """The handler of aiosmtpd: stores received mails in memory."""

    async def handle_DATA(self, server, session, envelope):
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        MAILS.insert(
            0,
            {
                "ID": str(len(MAILS) + 1),
                "From": {"Address": envelope.mail_from},
                "To": [{"Address": address} for address in envelope.rcpt_tos],
                "Subject": mail["Subject"],
                "Text": mail.get_body(("plain", "html")).get_content(),
            },
        )
        return "250 kept"


class Api(BaseHTTPRequestHandler):
    """`/api/v1/messages` lists the mails, newest first; `/api/v1/message/ID` is one mail with its text."""

    def do_GET(self):
        name = self.path.rsplit("/", 1)[-1]
        if self.path == "/api/v1/messages":
            body = {"total": len(MAILS), "messages": [{key: mail[key] for key in mail if key != "Text"} for mail in MAILS]}
        else:
            body = next((mail for mail in MAILS if mail["ID"] == name), None)
        text = json.dumps(body).encode()
        self.send_response(200 if body is not None else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


Controller(Keep(), hostname="0.0.0.0", port=1025).start()
ThreadingHTTPServer(("0.0.0.0", 8025), Api).serve_forever()
