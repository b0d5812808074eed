"""The program, started with the variables that the chart sets: they have the meaning that the chart expects.

Needs the program of `cargo build` (or STUDYGOVERNOR_PROGRAM); `make test` builds it first.
"""

import os
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import PROGRAM, pod_of, rendered, server_of, settings_of, workers_of

pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM} was not built")


FOLDERS = {"HOME", "DB_NAME", "STUDYGOV_DATA_DIR", "STUDYGOV_PROJECT_HOME", "STUDYGOV_PROJECT_SCRATCH"}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def variables(settings, home, **changes):
    """The variables of a container, with its folders below `home`, invented secrets, and the changes that a test needs."""
    found = {}
    for name, value in settings.items():
        text = f"made-up-{name.lower()}" if isinstance(value, dict) else value
        for folder in ("/var/lib/studygovernor", "/study", "/scratch"):
            if name in FOLDERS and (text == folder or text.startswith(folder + "/")):
                text = f"{home}{text.removeprefix(folder)}"
        found[name] = text
    return {"PATH": os.environ["PATH"], **found, **changes}


def ask(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def run_until(condition, arguments, environment, folder):
    """Starts the program, waits for the condition, stops it, and returns the log."""
    log = folder / "log"
    with log.open("w") as file:
        running = subprocess.Popen([PROGRAM, *arguments], cwd=folder, env=environment, stderr=file, stdout=file)
    try:
        for _ in range(1200):
            if running.poll() is not None or condition():
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"waited two minutes: {log.read_text()}")
        assert running.poll() is None, log.read_text()
    finally:
        running.terminate()
        try:
            running.wait(timeout=120)
        except subprocess.TimeoutExpired:
            running.kill()
    return log.read_text()


def odd(log):
    """Lines about settings that the program does not know or use."""
    return [line for line in log.splitlines() if re.search("unknown setting|did you mean|not used yet", line)]


def test_a_server_with_the_variables_of_the_chart_is_ready(tmp_path):
    manifests = rendered("sqlite-single")
    port, metrics_port = free_port(), free_port()
    (tmp_path / "database").mkdir()
    changes = {"STUDYGOV_HOST": "127.0.0.1", "STUDYGOV_PORT": str(port), "STUDYGOV_METRICS_LISTEN": f"127.0.0.1:{metrics_port}"}
    environment = variables(settings_of(manifests, server_of(manifests)), tmp_path, **changes)
    container = pod_of(server_of(manifests))["spec"]["containers"][0]
    ready = f"http://127.0.0.1:{port}{container['readinessProbe']['httpGet']['path']}"
    alive = f"http://127.0.0.1:{port}{container['livenessProbe']['httpGet']['path']}"
    answers = {}

    def both():
        answers["ready"], answers["alive"] = ask(ready)[0], ask(alive)[0]
        answers["health"] = subprocess.run(
            [PROGRAM, "health", "--url", f"http://127.0.0.1:{port}/studygovernor"], capture_output=True, env=environment, check=False
        ).returncode
        answers["queues"] = ask(f"http://127.0.0.1:{metrics_port}/-/queues?queue=gpu&concurrency=1")
        answers["metrics"] = ask(f"http://127.0.0.1:{metrics_port}/-/metrics")[0]
        answers["outside"] = [ask(f"http://127.0.0.1:{port}/studygovernor/-/{name}")[0] for name in ("queues", "metrics")]
        return answers["ready"] == 200

    log = run_until(both, container["args"], environment, tmp_path)
    assert (answers["ready"], answers["alive"], answers["health"]) == (200, 200, 0)
    status, body = answers["queues"]
    assert status == 200 and '"wanted":0' in body.replace(" ", "")
    assert (answers["metrics"], answers["outside"]) == (200, [404, 404])
    assert odd(log) == []
    assert (tmp_path / "database" / "studygovernor.db").exists()


def test_a_worker_with_the_variables_of_the_chart_answers_its_probe(tmp_path):
    manifests = rendered("workers")
    [gpu] = [one for one in workers_of(manifests) if one["metadata"]["name"].endswith("-gpu")]
    port = free_port()
    # Without a broker, the worker keeps trying, and is healthy.
    changes = {"STUDYGOV_WORKER_LISTEN": f"127.0.0.1:{port}", "STUDYGOV_BROKER_HOST": "127.0.0.1", "STUDYGOV_BROKER_PORT": str(free_port())}
    environment = variables(settings_of(manifests, gpu), tmp_path, **changes)
    container = pod_of(gpu)["spec"]["containers"][0]
    path = container["livenessProbe"]["httpGet"]["path"]
    log = run_until(lambda: ask(f"http://127.0.0.1:{port}{path}")[0] == 200, container["args"], environment, tmp_path)
    assert odd(log) == []
    assert "gpu" in log and "segmentation" in log


@pytest.mark.parametrize("name", ["minimal", "everything", "external-postgres", "external-mariadb", "ingress", "gateway"])
def test_the_program_reads_all_variables_of_the_chart(name, tmp_path):
    """The program reads every setting before it opens the database; an empty SQLite file is used here."""
    manifests = rendered(name)
    changes = {"DB_SCHEMA": "sqlite", "DB_NAME": str(tmp_path / "study.db")}
    settings = settings_of(manifests, server_of(manifests))
    if "STUDYGOV_BROKER" in settings:
        changes["STUDYGOV_BROKER"] = "amqp://u:p@127.0.0.1:1/study"
    environment = variables(settings, tmp_path, **changes)
    done = subprocess.run([PROGRAM, "db", "status"], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == "" and done.returncode == 1 and "pending" in done.stdout, done.stdout + done.stderr
