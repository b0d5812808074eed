"""The running compose file: one project for each test, and a client for HTTP requests."""

import base64
import http.cookiejar
import json
import os
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]
DOCKER = ROOT / ".docker"
IMAGE = "studygovernor-deploy-test:now"
SERVER_IMAGE = "studygovernor-deploy-test:server"
OLDER_IMAGE = "studygovernor-deploy-test:older"
# For processes that Docker shows with another id, as Docker Desktop does: signals are sent through a container.
TOOLS_IMAGE = "debian:bookworm-slim"
PATIENCE = 300


def run(*command, check=True, **options):
    """Runs a command and returns its output as text; with `check`, an exit code other than 0 is an error that shows the output."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    assert not check or done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done


def docker(*arguments, **options):
    return run("docker", *arguments, **options).stdout.strip()


def free_ports(count):
    """The first of `count` consecutive ports that are free on loopback."""
    for first in range(18000, 30000, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as one:
                    one.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


def eventually(what, check, patience=PATIENCE):
    """Returns the value of `check` as soon as it is true; failed connections count as not yet."""
    ends, last = time.monotonic() + patience, None
    while True:
        try:
            last = check()
            if last:
                return last
        except (OSError, AssertionError) as error:
            last = error
        assert time.monotonic() < ends, f"not in {patience} s: {what}; last: {last}"
        time.sleep(0.5)


class Person:
    """Sends requests to a server over HTTP, with cookies; redirects are followed."""

    def __init__(self, url, authorities=None):
        context = ssl.create_default_context(cadata=authorities) if authorities else None
        handlers = [urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())]
        handlers += [urllib.request.HTTPSHandler(context=context)] if context else []
        self.url, self.opener = url, urllib.request.build_opener(*handlers)

    def ask(self, path, data=None, method=None, **headers):
        """Returns status and text of the response."""
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        try:
            with self.opener.open(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def page(self, path):
        status, text = self.ask(path)
        assert status == 200, f"{path}: {status}\n{text[:2000]}"
        return text

    def post(self, path, **fields):
        """Sends a form."""
        status, text = self.ask(path, urllib.parse.urlencode(fields).encode())
        assert status == 200, f"{path}: {status}\n{text[:2000]}"
        return text

    def log_in(self, login="admin", password="admin"):
        """Logs in like a browser and returns the start page."""
        self.post("/login", login=login, password=password)
        text = self.page("/")
        assert "/logout" in text, text[:2000]
        return text

    def api(self, path, body=None, login="admin:admin", **headers):
        """JSON of the API; a body is posted."""
        data = None if body is None else json.dumps(body).encode()
        headers |= {"Authorization": "Basic " + base64.b64encode(login.encode()).decode(), "Content-Type": "application/json"}
        status, text = self.ask(f"/api/v2{path}", data, **headers)
        assert status < 300, f"{path}: {status}\n{text[:2000]}"
        return json.loads(text) if text else None


class Stack:
    """One project of the compose file with its settings; `close` removes it and its volumes."""

    def __init__(self, name, folder, image=IMAGE, profiles=(), override=None, **settings):
        self.name, self.folder = f"sgtest-{name}", Path(folder)
        self.profiles = [part for profile in profiles for part in ("--profile", profile)]
        self.port = free_ports(10)
        settings = {"STUDYGOV_IMAGE": image, "STUDYGOV_PUBLISH": f"127.0.0.1:{self.port}"} | settings
        self.settings(**settings)
        self.add(override or {})

    def settings(self, **settings):
        """Writes the file `.env`, in place of the one of a user."""
        self.values = getattr(self, "values", {}) | settings
        (self.folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in self.values.items()))

    def add(self, services):
        """Adds these services to the compose file, from the next `up` on; an empty mapping restores the original file."""
        self.override = self.folder / "override.yml" if services else None
        if services:
            self.override.write_text(yaml.safe_dump({"services": services}))

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def compose(self, *arguments, check=True):
        files = ["-f", DOCKER / "docker-compose.yml", *(["-f", self.override] if self.override else [])]
        command = ["docker", "compose", "-p", self.name, "--project-directory", DOCKER, *files, "--env-file", self.folder / ".env"]
        kept = ("PATH", "HOME", "DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT")
        clean = {name: os.environ[name] for name in kept if name in os.environ}
        return run(*command, *self.profiles, *arguments, check=check, env=clean)

    def up(self, *arguments):
        """Starts the project, waits until all services are healthy, and returns the seconds that this took."""
        began = time.monotonic()
        done = self.compose("up", "-d", "--wait", "--no-build", *arguments, check=False)
        assert done.returncode == 0, f"{done.stderr}\n{self.logs()}"
        return time.monotonic() - began

    def logs(self, *services):
        return self.compose("logs", "--no-color", "--tail", "400", *services, check=False).stdout

    def containers(self, service):
        return self.compose("ps", "-q", service).stdout.split()

    def exec(self, service, *command, check=True, index=1):
        return self.compose("exec", "-T", "--index", str(index), service, *command, check=check).stdout.strip()

    def person(self):
        return Person(self.url)

    def admin(self):
        person = self.person()
        person.log_in()
        return person

    def kill(self, service):
        """Kills the first process of a service's container, like a crash: Docker restarts it automatically."""
        [container, *_] = self.containers(service)
        before = docker("inspect", "-f", "{{.RestartCount}} {{.State.Pid}}", container).split()
        docker("run", "--rm", "--pid=host", "--network=none", TOOLS_IMAGE, "sh", "-c", f"kill -KILL {before[1]}")

        def is_back():
            state = json.loads(docker("inspect", container))[0]
            return state["RestartCount"] > int(before[0]) and state["State"].get("Health", {}).get("Status") == "healthy"

        return lambda: eventually(f"{service} to come back after it was killed", is_back)

    def close(self):
        self.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "5", check=False)
