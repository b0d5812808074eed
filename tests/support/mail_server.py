"""A mail server for the tests, on three ports of loopback: plain text, STARTTLS, and TLS from the beginning.

The two encrypted ones accept mail only after a login. Mails are stored in a Maildir, with the way of delivery in a
header.

    mail_server.py FOLDER PLAIN_PORT STARTTLS_PORT TLS_PORT CERTIFICATE KEY LOGIN PASSWORD
"""

import signal
import ssl
import sys

from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Mailbox
from aiosmtpd.smtp import AuthResult

folder, plain, starttls, tls, certificate, key, login, password = sys.argv[1:]


class Box(Mailbox):
    """Stores mails, with their way of delivery."""

    def __init__(self, way):
        self.way = way
        super().__init__(folder)

    def prepare_message(self, session, envelope):
        message = super().prepare_message(session, envelope)
        encrypted = session.ssl or self.way == "tls"  # TLS begins with the connection
        message["X-Came"] = f"{self.way}, {'encrypted' if encrypted else 'in the open'}"
        message["X-Login"] = session.auth_data.decode() if session.authenticated else "nobody"
        return message


def check(server, session, envelope, mechanism, data):
    right = (data.login, data.password) == (login.encode(), password.encode())
    return AuthResult(success=right, handled=False, auth_data=data.login)


context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(certificate, key)
known = dict(authenticator=check, auth_required=True)
servers = [
    Controller(Box("plain"), hostname="127.0.0.1", port=int(plain)),
    Controller(Box("starttls"), hostname="127.0.0.1", port=int(starttls), tls_context=context, require_starttls=True, **known),
    Controller(Box("tls"), hostname="127.0.0.1", port=int(tls), ssl_context=context, auth_require_tls=False, **known),
]
for server in servers:
    server.start()
signal.sigwait([signal.SIGTERM, signal.SIGINT])
for server in servers:
    server.stop()
