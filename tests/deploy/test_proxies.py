"""The configurations of docs/guide/behind-a-proxy.md, run as written: with TLS, a path prefix, and a login through them."""

import functools
import html
import http.client
import http.cookiejar
import json
import os
import re
import shutil
import socket
import sqlite3
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from conftest import ROOT

PROGRAM = Path(os.environ.get("STUDYGOVERNOR_PROGRAM", ROOT / "target" / "debug" / "studygovernor"))
GUIDE = (ROOT / "docs" / "guide" / "behind-a-proxy.md").read_text()
NAME = "studies.example.org"
PASSWORD = "a password of the tests"
# The client has its own address, to distinguish it from the proxy.
CLIENT = "127.0.0.9"
pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM} was not built")


def block(language):
    [text] = re.findall(rf"```{language}\n(.*?)```", GUIDE, re.S)
    return text


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def replaced(text, *pairs):
    for old, new in pairs:
        assert old in text, f"the guide has no '{old}'"
        text = text.replace(old, str(new))
    return text


def nginx(folder, port, server):
    """The guide's block, with ports and certificate of the test, in a main configuration that does not need root."""
    site = replaced(
        block("nginx"),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("127.0.0.1:8000", f"127.0.0.1:{server}"),
        ("/etc/ssl/studies.pem", folder / "studies.pem"),
        ("/etc/ssl/private/studies.key", folder / "studies.key"),
    )
    kinds = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    main = f"daemon off;\npid {folder}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{kinds}{site}}}\n"
    (folder / "nginx.conf").write_text(main)
    return [shutil.which("nginx") or "/usr/sbin/nginx", "-e", "stderr", "-p", folder, "-c", folder / "nginx.conf"]


def caddy(folder, port, server):
    site = replaced(
        block("caddyfile"),
        (f"{NAME} {{", f"https://{NAME}:{port} {{\n\tbind 127.0.0.1\n\ttls {folder}/studies.pem {folder}/studies.key"),
        ("127.0.0.1:8000", f"127.0.0.1:{server}"),
    )
    (folder / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n}\n" + site)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", folder / "Caddyfile"]


def certificate(folder):
    words = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={NAME} -addext subjectAltName=DNS:{NAME}".split()
    subprocess.run([*words, "-keyout", folder / "studies.key", "-out", folder / "studies.pem"], capture_output=True, check=True)


class Browser:
    """Sends requests to the proxy by its name, which resolves to this machine, and keeps cookies."""

    def __init__(self, folder, port):
        context = ssl.create_default_context(cafile=folder / "studies.pem")

        class Connection(http.client.HTTPSConnection):
            def connect(self):
                plain = socket.create_connection(("127.0.0.1", self.port), 60, (CLIENT, 0))
                self.sock = context.wrap_socket(plain, server_hostname=self.host)

        class Handler(urllib.request.HTTPSHandler):
            def https_open(self, request):
                return self.do_open(Connection, request)

        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.opener = urllib.request.build_opener(Handler(), cookies, urllib.request.ProxyHandler({}))
        self.base = f"https://{NAME}:{port}"

    def ask(self, path, fields=None, data=None, **headers):
        if fields is not None:
            data = urllib.parse.urlencode(fields).encode()
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            with self.opener.open(urllib.request.Request(self.base + path, data, headers), timeout=60) as answer:
                return answer.status, answer.url, html.unescape(answer.read().decode())
        except urllib.error.HTTPError as error:
            return error.code, error.url, error.read().decode()
        except OSError as error:
            return 0, path, str(error)

    def log_in(self, password, **headers):
        return self.ask("/studygovernor/login", {"login": "admin", "password": password, "next": ""}, **headers)


def until(condition, log):
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail(f"waited two minutes\n{log.read_text()}")


@pytest.fixture(params=[nginx, caddy], ids=lambda proxy: proxy.__name__)
def study(request, tmp_path):
    """A server behind the proxy of the guide, with the settings of the guide; yields a browser and the server's folder."""
    if not shutil.which(request.param.__name__) and not Path("/usr/sbin", request.param.__name__).exists():
        pytest.skip(f"{request.param.__name__} is not installed")
    port, server = free_port(), free_port()
    certificate(tmp_path)
    settings = dict(re.findall(r"^([A-Z_]+)=(\S+)", block("sh"), re.M))
    assert settings["SCRIPT_NAME"] == "/studygovernor" and settings["STUDYGOV_EXTERNAL_HOSTNAME"] == NAME
    settings |= {"STUDYGOV_EXTERNAL_PORT": str(port), "STUDYGOV_PORT": str(server)}
    settings |= {"STUDYGOV_ADMIN_USERNAME": "admin", "STUDYGOV_ADMIN_PASSWORD": PASSWORD, "STUDYGOV_UPLOAD_LIMIT": "100 MB"}
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **settings}
    running, log = [], tmp_path / "log"
    with log.open("w") as file:
        start = functools.partial(subprocess.Popen, cwd=tmp_path, env=environment, stdout=file, stderr=file, stdin=subprocess.DEVNULL)
        try:
            running.append(start([PROGRAM, "serve"]))
            running.append(start(request.param(tmp_path, port, server)))
            browser = Browser(tmp_path, port)
            until(lambda: browser.ask("/studygovernor/-/ready")[0] == 200, log)
            yield browser, tmp_path
        finally:
            for one in reversed(running):
                one.terminate()
                one.wait(timeout=120)


def test_the_guides_proxy_leads_to_the_study(study):
    browser, folder = study
    # The form, a wrong password, the correct one; a client that claims another address is not believed.
    status, url, page = browser.ask("/studygovernor")
    assert status == 200 and url.startswith(f"{browser.base}/studygovernor/login?next=") and 'action="/studygovernor/login"' in page
    assert browser.log_in("wrong", X_Forwarded_For="203.0.113.7", Forwarded="for=203.0.113.8")[0] in (401, 422)
    status, url, page = browser.log_in(PASSWORD, Origin=browser.base)
    assert status == 200 and url.startswith(f"{browser.base}/studygovernor/") and "/studygovernor/logout" in page
    assert browser.log_in(PASSWORD, Origin="https://elsewhere.example.org")[0] == 403
    with sqlite3.connect(folder / "studygovernor.db") as database:
        seen = {row[0] for row in database.execute("SELECT DISTINCT address FROM audit_event WHERE address IS NOT NULL")}
    assert seen == {CLIENT}

    # URLs in responses are those of the browser; static files and health checks are available, metrics are not.
    status, _, body = browser.ask("/studygovernor/api/v2/workflows")
    assert status == 200 and json.loads(body)["workflows"] == []
    [style] = set(re.findall(r'href="(/studygovernor/static/app[^"]*\.css[^"]*)"', page))
    assert browser.ask(style)[0] == 200 and browser.ask("/studygovernor/-/versions")[0] == 200
    assert [browser.ask(f"/studygovernor/-/{name}")[0] for name in ("metrics", "queues")] == [403, 403]
    assert browser.ask("/studygovernor-elsewhere/login")[0] in (0, 404) or "login" not in browser.ask("/studygovernor-elsewhere/login")[2]

    # A body of 3 MiB reaches the API, which reports the problem itself; nginx alone would reject it with 413.
    status, _, body = browser.ask("/studygovernor/api/v2/cohorts", data=json.dumps({"label": "y" * (3 << 20)}).encode(), Content_Type="application/json")
    assert status in (400, 422) and "message" in json.loads(body)
