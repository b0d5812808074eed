"""One study on one machine: first start, crash of each container, stop and restart."""

import json
import time

import ledger
import load
import pytest
from conftest import measured
from stack import docker, eventually


@pytest.fixture(scope="module")
def stack(stacks):
    return stacks("study", profiles=("example",), STUDYGOV_XNAT_PROJECT="faces", STUDYGOV_WORKER_CONCURRENCY="8")


def example_sessions(stack):
    return stack.person().api("/experiments?limit=100")["experiments"]


def test_it_comes_up_from_nothing_with_the_example(stack):
    seconds = stack.up("server", "worker")
    measured(f"compose up from nothing: healthy after {seconds:.0f} s")
    made = stack.logs("secrets")
    for name in ("SECRET_KEY", "SECURITY_PASSWORD_SALT", "DB_PASSWORD", "STUDYGOV_BROKER_PASSWORD"):
        assert f"{name} is not set; created a value in /secrets/" in made, made
    stack.compose("up", "--no-build", "--exit-code-from", "example", "example")
    assert len(example_sessions(stack)) == 32


def test_a_person_logs_in_and_is_warned_about_the_known_password(stack):
    person = stack.person()
    refused, _ = person.ask("/login", b"login=admin&password=wrong")
    assert refused == 422
    assert "Your password is easy to guess" in person.log_in()
    assert "/logout" in person.page("/experiments")


def test_callbacks_run_on_the_worker_to_the_end(stack):
    eventually("the callbacks of the example to be run", lambda: ledger.unresolved(stack) == 0)
    [worker] = stack.containers("worker")
    assert {name.split(":")[0] for name in ledger.workers(stack)} == {worker[:12]}
    results = ledger.sql(stack, "SELECT DISTINCT result FROM callback_execution")
    assert results == [["success"]]
    ledger.check(stack)


def test_containers_have_what_they_need_and_no_more(stack):
    for service in ("server", "worker"):
        [container] = stack.containers(service)
        one = json.loads(docker("inspect", container))[0]
        assert one["HostConfig"]["ReadonlyRootfs"] and one["HostConfig"]["CapDrop"] == ["ALL"]
        assert one["Config"]["User"] == "10001:0"
        assert not [line for line in one["Config"]["Env"] if line.startswith(("SECRET_KEY=", "DB_PASSWORD=", "STUDYGOV_BROKER_PASSWORD="))]
        denied = stack.exec(service, "sh", "-c", "touch /usr/there 2>&1; touch /tmp/here && echo done", check=False)
        assert "Read-only" in denied and denied.endswith("done"), denied
    secrets = stack.exec("worker", "sh", "-c", "ls /secrets /secrets/*", check=False)
    assert "DB_PASSWORD" not in secrets and "SECRET_KEY" not in secrets, secrets


def test_each_container_is_killed_under_load_and_the_ledger_is_sound(stack):
    person = stack.person()
    subject = load.prepare(person)
    under = load.Load(person, subject)
    began = time.monotonic()
    for service in ("worker", "server", "broker", "db", "worker"):
        waiting = under.count + 5
        eventually("more work", lambda: under.error or under.count >= waiting)
        eventually("callbacks to run", lambda: ledger.unresolved(stack) > 0)
        killed = time.monotonic()
        stack.kill(service)()
        measured(f"{service} killed under load: healthy again after {time.monotonic() - killed:.0f} s")
    count = under.stop()
    load.check_all_arrived(stack, count)
    ledger.check(stack)
    measured(f"{count} experiments, {count * load.EXECUTIONS} callbacks, five kills: sound after {time.monotonic() - began:.0f} s")


def test_down_and_up_keep_everything(stack):
    person = stack.admin()
    eventually("all work to be done", lambda: ledger.unresolved(stack) == 0)
    before = {table: ledger.sql(stack, f"SELECT * FROM {table} ORDER BY id") for table in ("experiment", "action", "callback_execution")}
    containers = {service: stack.containers(service)[0] for service in ("server", "worker")}
    began = time.monotonic()
    stack.compose("stop")
    measured(f"stopped in {time.monotonic() - began:.0f} s")
    for service, container in containers.items():
        assert docker("inspect", "-f", "{{.State.ExitCode}} {{.State.OOMKilled}}", container) == "0 false", service
    stack.compose("down")
    seconds = stack.up("server", "worker")
    measured(f"up again after down: healthy after {seconds:.0f} s")
    assert "created" not in stack.logs("secrets")
    after = {table: ledger.sql(stack, f"SELECT * FROM {table} ORDER BY id") for table in before}
    assert after == before
    # Sessions remain valid: the secrets are the same.
    assert "/logout" in person.page("/")
    load.create(person, person.api("/subjects?label=load-1")["subjects"][0]["id"], "load-after")
    eventually("callbacks to run as before", lambda: ledger.unresolved(stack) == 0)
    ledger.check(stack)
