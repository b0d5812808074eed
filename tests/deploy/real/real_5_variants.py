"""MariaDB, a mail server, and another system user."""

import json
import re

import ledger
import load
import pytest
from stack import DOCKER, SERVER_IMAGE, Person, docker, eventually

# 8025 is the fixed port of the mail list on this machine.
MAILS = Person("http://127.0.0.1:8025")


def mails():
    return json.loads(MAILS.page("/api/v1/messages"))["messages"]


def text_of(mail):
    return json.loads(MAILS.page(f"/api/v1/message/{mail['ID']}"))["Text"]


def test_mariadb_in_place_of_postgresql(stacks):
    settings = dict(line.split("=", 1) for line in (DOCKER / "mariadb.env").read_text().splitlines() if line and line[0] != "#")
    stack = stacks("mariadb", profiles=("example",), STUDYGOV_XNAT_PROJECT="faces", **settings)
    stack.up("server", "worker")
    stack.compose("up", "--no-build", "--exit-code-from", "example", "example")
    stack.admin()
    person = stack.person()
    subject = load.prepare(person)
    for number in range(5):
        load.create(person, subject, f"load-{number}")
    load.check_all_arrived(stack, 5)
    assert len(person.api("/experiments?limit=100")["experiments"]) == 37
    before = ledger.sql(stack, "SELECT * FROM action ORDER BY id")
    stack.compose("down")
    stack.up("server", "worker")
    assert ledger.sql(stack, "SELECT * FROM action ORDER BY id") == before
    ledger.check(stack)


def test_mails_of_server_and_worker_arrive(stacks):
    settings = {"MAIL_SERVER": "mail", "MAIL_PORT": "1025", "STUDYGOV_ADMIN_EMAIL": "admin@example.org"}
    settings |= {"STUDYGOV_EMAIL_TO": "team@example.org", "STUDYGOV_EMAIL_FROM": "study@example.org"}
    stack = stacks("mail", profiles=("mail",), **settings)
    stack.up()
    person = stack.person()
    # The server: a user forgot the password, and sets another one with the link in the mail.
    person.post("/reset", email="admin@example.org")
    [mail] = eventually("the mail of the server", mails)
    assert mail["To"][0]["Address"] == "admin@example.org" and mail["From"]["Address"] == "study@example.org"
    assert re.search(r"http://localhost:8000/reset/[\w-]+", text_of(mail)), text_of(mail)
    # The worker: a callback of a workflow.
    callback = "{label: tell, function: send_mail, callback_arguments: {subject: 'Scan of {experiment}', body: 'It is there.'}}"
    workflow = f"label: {load.LABEL}\nstates:\n  - {{label: root, transitions: [{{destination: end}}]}}\n  - {{label: end, callbacks: [{callback}]}}\n"
    person.api("/service/config/import-workflow", {"workflow_definition": workflow})
    person.api("/cohorts", {"label": "load", "description": "of the tests"})
    person.api("/subjects", {"label": "load-1", "date_of_birth": "1980-01-01", "cohort": "load"})
    load.create(person, 1, "session-1")
    newest = eventually("the mail of the worker", lambda: len(mails()) == 2 and mails()[0])
    assert newest["Subject"].endswith("Scan of session-1") and newest["To"][0]["Address"] == "team@example.org", newest
    ledger.check(stack)


@pytest.mark.parametrize("user", ["54321:0"])
def test_any_user_with_group_0_works(stacks, user):
    override = {service: {"user": user} for service in ("secrets", "server", "worker")}
    stack = stacks("user", override=override)
    stack.up()
    person = stack.person()
    assert "/logout" in person.log_in()
    subject = load.prepare(person)
    for number in range(3):
        load.create(person, subject, f"load-{number}")
    load.check_all_arrived(stack, 3)
    ledger.check(stack)
    for service in ("server", "worker"):
        assert stack.exec(service, "id", "-u") == user.split(":")[0]
        assert docker("inspect", "-f", "{{.HostConfig.ReadonlyRootfs}}", stack.containers(service)[0]) == "true"


def test_servers_without_python_and_shell(stacks):
    slim = {"image": SERVER_IMAGE}
    stack = stacks("slim", override={"secrets": slim, "server": slim})
    stack.up()
    person = stack.person()
    assert "/logout" in person.log_in()
    subject = load.prepare(person)
    load.create(person, subject, "load-0")
    load.check_all_arrived(stack, 1)
    ledger.check(stack)
