"""git over HTTP with a login, using `git http-backend`: git_server.py FOLDER USER PASSWORD.

Prints its URL. Writes into FOLDER/leaks the command line of each process that shows the password during a request.
"""

import base64
import os
import pathlib
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FOLDER, USER, PASSWORD = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
LOGIN = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


def look_for_leaks():
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if PASSWORD.encode() in line and process.name != str(os.getpid()):
            with (FOLDER / "leaks").open("ab") as leaks:
                leaks.write(line + b"\n")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        look_for_leaks()
        if self.path.startswith("/elsewhere/"):
            # A different host as far as logins are concerned.
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/{self.path.removeprefix('/elsewhere/')}")
            self.end_headers()
            return
        given = self.headers.get("Authorization")
        if given and self.headers["Host"].startswith("localhost"):
            (FOLDER / "given-elsewhere").write_text(given)
        if given != LOGIN:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(FOLDER),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type") or "",
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding") or "",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol") or "",
            "REMOTE_USER": USER,
            "REMOTE_ADDR": "127.0.0.1",
        }
        answer = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=False).stdout
        head, _, content = answer.partition(b"\r\n\r\n")
        fields = [line.split(": ", 1) for line in head.decode().split("\r\n") if line]
        status = next((value for name, value in fields if name == "Status"), "200 OK")
        self.send_response(int(status.split()[0]))
        for name, value in fields:
            if name != "Status":
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"serves git on http://127.0.0.1:{server.server_port}", file=sys.stderr, flush=True)
server.serve_forever()
