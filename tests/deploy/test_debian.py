"""The Debian package and `make install`: installed with dpkg under a separate systemd, started, tested, upgraded, removed, purged."""

import gzip
import json
import os
import re
import subprocess
from pathlib import Path

import machine
import pytest
from conftest import ROOT

PROGRAM = Path(os.environ.get("STUDYGOVERNOR_PROGRAM", ROOT / "target" / "debug" / "studygovernor"))
CONVERSATION = Path(__file__).with_name("conversation.py")
GUIDE = ROOT / "docs" / "guide" / "deploy-debian.md"
SETTINGS = "/etc/studygovernor/studygovernor.env"
SECRETS = "/etc/studygovernor/secrets"
UNITS = ["studygovernor.service", "studygovernor-worker.service", "studygovernor-worker@.service"]
pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM} was not built")
on_a_machine = pytest.mark.skipif(machine.why_not() is not None, reason=machine.why_not() or "")


def build(folder, **variables):
    environment = {**os.environ, "BINARY": str(PROGRAM), "COMPRESSION": "none", **variables}
    return subprocess.run([ROOT / ".ci" / "debian" / "build", folder], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The package, around the program of the tests."""
    done = build(tmp_path_factory.mktemp("package"))
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def unpacked(package):
    folder = package.parent / "unpacked"
    subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)
    return folder


@pytest.fixture
def debian(tmp_path):
    with machine.Machine(tmp_path / "machine") as one:
        yield one


def later(package, folder):
    """The same package with a higher version."""
    tree, version = folder / "later", field(package, "Version")
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    control = tree / "DEBIAN" / "control"
    control.write_text(control.read_text().replace(f"Version: {version}\n", f"Version: {version}+later\n"))
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, folder / "later.deb"], capture_output=True, check=True)
    return folder / "later.deb"


def field(package, name):
    return subprocess.run(["dpkg-deb", "--field", package, name], capture_output=True, text=True, check=True).stdout.strip()


def ask(one, *paths, user="admin", port=8000, prefix=""):
    """The responses of the API; without paths, the result of the login form."""
    password = one.says("cat", f"{SECRETS}/STUDYGOV_ADMIN_PASSWORD")
    arguments = [f"http://127.0.0.1:{port}{prefix}", user, password, *paths]
    return json.loads(one.says("python3", "-", *arguments, stdin=CONVERSATION.read_text()))


def until_ready(one):
    one.until(lambda: ask(one, "/-/ready", user="")[0]["status"] == 200, one.says("journalctl", "--no-pager", "-u", "studygovernor"))


def until_done(one, count):
    """Waits until this number of experiments has reached the final state `done`."""

    def done():
        [answer] = ask(one, "/api/v2/experiments?state=done")
        return answer["status"] == 200 and len(json.loads(answer["body"])["experiments"]) >= count

    one.until(done, "callbacks do not end")


def state(one, unit, *names):
    """Properties of a unit."""
    shown = one.says("systemctl", "show", unit, *(f"--property={name}" for name in names))
    found = dict(line.split("=", 1) for line in shown.splitlines())
    return [found[name] for name in names]


def test_the_package_says_what_it_is_and_needs(package, unpacked):
    version = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    assert field(package, "Version") == f"{version.replace('-', '~', 1)}-1" and field(package, "Package") == "studygovernor"
    assert re.search(r"libc6 \(>= 2\.\d+\)", field(package, "Depends")) and "ca-certificates" in field(package, "Depends")
    assert {"git", "python3"} <= set(field(package, "Recommends").split(", "))
    control = subprocess.run(["dpkg-deb", "--info", package, "conffiles"], capture_output=True, text=True, check=True).stdout
    assert control.split() == [SETTINGS]
    manual, doc = unpacked / "usr/share/man", unpacked / "usr/share/doc/studygovernor"
    assert b".TH studygovernor-serve 1" in gzip.decompress((manual / "man1/studygovernor-serve.1.gz").read_bytes())
    assert (manual / "man8/studygovernor-admin.8.gz").exists() and "Apache-2.0" in (doc / "copyright").read_text()
    assert field(package, "Version") in gzip.decompress((doc / "changelog.Debian.gz").read_bytes()).decode().splitlines()[0]
    assert (unpacked / "usr/bin/studygovernor").stat().st_mode & 0o777 == 0o755
    for completions in ["bash-completion/completions/studygovernor", "zsh/vendor-completions/_studygovernor", "fish/vendor_completions.d/studygovernor.fish"]:
        assert "worker" in (unpacked / "usr/share" / completions).read_text()


def test_a_program_that_is_not_there_and_a_wrong_version_are_named(tmp_path):
    for variables, words in [({"BINARY": "/nowhere/studygovernor"}, "BINARY: /nowhere/studygovernor"), ({"VERSION": "9 0"}, "VERSION: '9 0'")]:
        done = build(tmp_path, **variables)
        assert done.returncode == 1 and words in done.stderr and not list(tmp_path.iterdir()), done.stderr


@pytest.mark.parametrize("unit", UNITS)
def test_units_are_hardened(unit, unpacked, tmp_path):
    # systemd-analyze needs an instance of a template.
    path = tmp_path / unit.replace("@.", "@gpu.")
    path.write_text((unpacked / "lib/systemd/system" / unit).read_text())
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=30", path], capture_output=True, text=True, check=False)
    exposure = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert done.returncode == 0 and exposure and float(exposure[1]) < 3.0, done.stdout + done.stderr


def test_the_settings_file_names_settings_that_exist():
    text = (ROOT / ".ci/systemd/studygovernor.env").read_text()
    names = re.findall(r"^#?([A-Z][A-Z0-9_]+)=", text, re.M)
    known = (ROOT / "docs/reference/settings.md").read_text()
    assert len(names) > 20 and [name for name in names if f"| `{name}` |" not in known] == []


# The rights of a callback, as tested by the workflow below on the machine.
RIGHTS = """
import json, mmap, os, subprocess
def can(action):
    try:
        action()
        return True
    except (OSError, subprocess.SubprocessError):
        return False
home = os.environ["STUDYGOV_PROJECT_HOME"]
print("__VALUES__ = " + json.dumps({
    "compile": can(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)),
    "memory": can(lambda: open("/proc/meminfo").read()),
    "start": can(lambda: subprocess.run(["git", "--version"], check=True)),
    "home": can(lambda: open(home + "/written", "w").write("x")),
    "tmp": can(lambda: open("/tmp/written", "w").write("x")),
    "etc": can(lambda: open("/etc/written", "w").write("x")),
    "usr": can(lambda: open("/usr/written", "w").write("x")),
    "root": can(lambda: os.listdir("/root")),
    "others": can(lambda: open("/proc/1/environ").read()),
    "srv": can(lambda: open("/srv/study/written", "w").write("x")),
    "user": os.getuid(),
}))
"""

WORKFLOW = f"""
label: rights
states:
  - label: begin
    transitions: [{{destination: check}}]
  - label: check
    callbacks:
      - label: rights
        function: command
        callback_arguments: {{binary: python3, args: ["-c", {json.dumps(RIGHTS)}]}}
    transitions: [{{destination: done}}]
  - label: done
"""


def rights(one, name):
    """The rights that a callback of a new experiment of this name has."""
    one.write(f"/run/{name}.csv", f"subject,date_of_birth,experiment,scan_date\n{name},1990-01-01,{name},2020-01-01\n")
    before = len(finished_checks(one))
    one.run("studygovernor-admin", "import", "csv", f"/run/{name}.csv", "--cohort", "c", "--workflow", "rights")
    one.until(lambda: len(finished_checks(one)) > before, "the callback does not end")
    [answer] = ask(one, f"/api/v2/callback_executions/{max(finished_checks(one))}")
    execution = json.loads(answer["body"])
    assert execution["experiment"]["label"] == name and execution["result"] == "success", execution["run_log"]
    return json.loads(execution["result_values"])["values"]


def finished_checks(one):
    [answer] = ask(one, "/api/v2/callback_executions?limit=1000")
    executions = json.loads(answer["body"])["callback_executions"]
    return [execution["id"] for execution in executions if execution["callback"]["label"] == "rights" and execution["status"] == "finished"]


@on_a_machine
def test_installed_started_asked_upgraded_removed_and_purged(debian, package, tmp_path):
    said = debian.install(package)
    assert f"{SECRETS}/STUDYGOV_ADMIN_PASSWORD" in said
    password = debian.says("cat", f"{SECRETS}/STUDYGOV_ADMIN_PASSWORD")
    assert len(password) >= 32 and password not in said

    # The service runs as its own user, and only that user can access its files.
    until_ready(debian)
    active, enabled, user, main = state(debian, "studygovernor", "ActiveState", "UnitFileState", "User", "MainPID")
    assert (active, enabled, user) == ("active", "enabled", "studygovernor")
    assert debian.says("stat", "-c", "%U", f"/proc/{main}") == "studygovernor"
    modes = {SETTINGS: "640 root studygovernor", SECRETS: "750 root studygovernor", f"{SECRETS}/SECRET_KEY": "640 root studygovernor"}
    modes["/var/lib/studygovernor"] = "750 studygovernor studygovernor"
    assert {path: debian.says("stat", "-c", "%a %U %G", path) for path in modes} == modes
    assert debian.run("systemd-analyze", "verify", *UNITS[:2], "studygovernor-worker@gpu.service").stderr == ""
    answers = ask(debian)
    assert answers["form"]["status"] == 200 and 'name="password"' in answers["form"]["body"]
    assert answers["start"]["status"] == 200 and "/logout" in answers["start"]["body"]
    assert "unknown setting" not in debian.says("journalctl", "--no-pager", "-u", "studygovernor")

    # Callbacks run under the hardening, for the example and for another study.
    debian.run("studygovernor-admin", "demo", "--load")
    until_done(debian, 1)
    debian.write("/run/workflow.yaml", WORKFLOW)
    debian.run("studygovernor-admin", "workflow", "load", "/run/workflow.yaml")
    debian.run("install", "-d", "-m", "1777", "/srv/study")
    found = rights(debian, "first")
    allowed = ["compile", "memory", "start", "home", "tmp"]
    assert {name for name, is_possible in found.items() if is_possible is True} == set(allowed)
    assert str(found["user"]) == debian.says("id", "-u", "studygovernor")

    # An upgrade keeps the study, the changed settings and the secrets, and runs the new program.
    debian.run("sed", "-i", "s/^#STUDYGOV_INSTANCE_NAME=.*/STUDYGOV_INSTANCE_NAME='The changed name'/", SETTINGS)
    debian.install(later(package, tmp_path))
    assert debian.says("dpkg-query", "--show", "studygovernor").endswith("+later")
    until_ready(debian)
    [now] = state(debian, "studygovernor", "MainPID")
    answers = ask(debian)
    assert now != main and "The changed name" in answers["start"]["body"]
    [answer] = ask(debian, "/api/v2/experiments?limit=1000")
    assert len(json.loads(answer["body"])["experiments"]) == 33
    assert debian.says("stat", "-c", "%a %U %G", SETTINGS) == "640 root studygovernor"
    # The first password may be deleted; an upgrade does not create it again.
    debian.run("mv", f"{SECRETS}/STUDYGOV_ADMIN_PASSWORD", "/run/")
    debian.run("/usr/lib/studygovernor/setup")
    assert debian.says("ls", SECRETS).split() == ["SECRET_KEY", "SECURITY_PASSWORD_SALT"]
    debian.run("mv", "/run/STUDYGOV_ADMIN_PASSWORD", SECRETS)

    # Removed: the study is kept, and another installation continues with it.
    assert "are kept" in debian.says("dpkg", "--remove", "studygovernor")
    assert ask(debian, "/-/ready", user="")[0]["status"] == 0 and not debian.run("pgrep", "-x", "studygovernor", check=False).stdout
    assert debian.says("ls", "/var/lib/studygovernor/studygovernor.db") and debian.says("ls", f"{SECRETS}/SECRET_KEY")
    debian.install(package)
    until_ready(debian)
    [answer] = ask(debian, "/api/v2/experiments?limit=1000")
    assert len(json.loads(answer["body"])["experiments"]) == 33

    # Purged, with an enabled worker: nothing remains.
    debian.run("systemctl", "enable", "--now", "studygovernor-worker@gpu.service", "studygovernor-worker.service")
    debian.run("dpkg", "--purge", "studygovernor")
    left = "/etc/studygovernor /var/lib/studygovernor /usr/lib/studygovernor /usr/bin/studygovernor".split()
    assert debian.run("ls", *left, check=False).stdout == ""
    assert debian.says("find", "/etc/systemd", "/var/lib/systemd", "/lib/systemd", "-name", "*studygovernor*") == ""
    for database in ("passwd", "group"):
        assert debian.run("getent", database, "studygovernor", check=False).returncode == 2


@on_a_machine
def test_wrong_settings_workers_and_drop_ins(debian, package):
    debian.install(package)
    until_ready(debian)

    # A wrong setting: one sentence in the journal, and no loop of restarts.
    debian.run("sed", "-i", "s/^#STUDYGOV_PORT=.*/STUDYGOV_PORT=eighty/", SETTINGS)
    debian.run("systemctl", "restart", "studygovernor", check=False)
    debian.until(lambda: state(debian, "studygovernor", "ActiveState") == ["failed"], "it does not fail")
    assert state(debian, "studygovernor", "ExecMainStatus", "NRestarts") == ["2", "0"]
    assert "STUDYGOV_PORT: 'eighty' is not a port number" in debian.says("journalctl", "--no-pager", "-u", "studygovernor")
    # With a valid port and a path prefix, it answers there.
    debian.run("sed", "-i", "s/^STUDYGOV_PORT=.*/STUDYGOV_PORT=8123/; s/^#SCRIPT_NAME=.*/SCRIPT_NAME=\\/study/", SETTINGS)
    debian.run("systemctl", "restart", "studygovernor")
    debian.until(lambda: ask(debian, "/-/ready", user="", port=8123, prefix="/study")[0]["status"] == 200, "it does not answer")
    debian.run("sed", "-i", "s/^STUDYGOV_PORT=/#&/; s/^SCRIPT_NAME=/#&/", SETTINGS)
    debian.run("systemctl", "restart", "studygovernor")
    until_ready(debian)

    # A worker on the database of the server. A worker for a queue waits for a broker of its own settings, and stops
    # when it is asked to.
    debian.write("/etc/studygovernor/worker-gpu.env", "STUDYGOV_BROKER_HOST=127.0.0.1\nSTUDYGOV_WORKER_CONCURRENCY=1\n")
    debian.run("systemctl", "start", "studygovernor-worker", "studygovernor-worker@gpu")

    def workers():
        [answer] = ask(debian, "/api/v2/workers")
        return [one["kind"] for one in json.loads(answer["body"])["workers"]]

    debian.until(lambda: "database" in workers(), "the worker does not appear")
    debian.until(lambda: "gpu" in debian.says("journalctl", "--no-pager", "-u", "studygovernor-worker@gpu"), "the queue is not named")
    debian.run("systemctl", "stop", "studygovernor-worker", "studygovernor-worker@gpu")
    assert state(debian, "studygovernor-worker", "Result") == ["success"] == state(debian, "studygovernor-worker@gpu", "Result")

    # Each drop-in of the guide is accepted, and gives callbacks the rights that the guide describes.
    debian.write("/run/workflow.yaml", WORKFLOW)
    debian.run("studygovernor-admin", "workflow", "load", "/run/workflow.yaml")
    debian.run("install", "-d", "-m", "1777", "/srv/study")
    debian.run("adduser", "--quiet", "--system", "--group", "pipelines")
    blocks = dict(re.findall(r"```ini\n# /etc/systemd/system/studygovernor\.service\.d/(\S+)\n(.*?)```", GUIDE.read_text(), re.S))
    assert {"folders.conf", "callback-user.conf", "credentials.conf"} <= set(blocks)
    # The credential is created as in the guide, for a setting whose use is visible.
    debian.write("/etc/studygovernor/credentials/mail", "made-up")
    for name, text in blocks.items():
        path = f"/etc/systemd/system/studygovernor.service.d/{name}"
        debian.write(path, text)
        debian.run("systemctl", "daemon-reload")
        assert debian.run("systemd-analyze", "verify", "studygovernor.service").stderr == "", name
        debian.run("systemctl", "restart", "studygovernor")
        until_ready(debian)
        if name in ("folders.conf", "callback-user.conf"):
            found = rights(debian, name.removesuffix(".conf"))
            assert found["srv"] is (name == "folders.conf"), name
            user = "pipelines" if name == "callback-user.conf" else "studygovernor"
            assert str(found["user"]) == debian.says("id", "-u", user), name
        if name == "credentials.conf":
            secret = "/run/credentials/studygovernor.service/MAIL_PASSWORD"
            assert debian.says("stat", "-c", "%U %a", secret) == "studygovernor 400"
            # The program reads this credential.
            debian.write("/etc/studygovernor/credentials/mail", "\n")
            debian.run("systemctl", "restart", "studygovernor", check=False)
            words = f"MAIL_PASSWORD_FILE: {secret} is empty"
            debian.until(lambda: words in debian.says("journalctl", "--no-pager", "-u", "studygovernor"), "the credential is not read")
        debian.run("rm", path)


def test_make_install_and_uninstall(tmp_path):
    def make(target, **variables):
        words = [f"{name}={value}" for name, value in {"DESTDIR": tmp_path, "PREFIX": "/opt/study", "BINARY": PROGRAM, **variables}.items()]
        return subprocess.run(["make", "--no-print-directory", "-C", ROOT, target, *words], capture_output=True, text=True, check=False)

    def files():
        return {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}

    done = make("install")
    assert done.returncode == 0, done.stderr
    assert {"opt/study/bin/studygovernor", "opt/study/share/man/man1/studygovernor.1.gz"} <= files()
    assert not [path for path in files() if "systemd" in path or path.startswith("etc")]
    done = subprocess.run([tmp_path / "opt/study/bin/studygovernor", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("studygovernor ")

    # The units contain the path of the program; existing settings are kept.
    assert make("install", SYSTEMD="yes").returncode == 0
    for unit in UNITS:
        text = (tmp_path / "opt/study/lib/systemd/system" / unit).read_text()
        assert "ExecStart=/opt/study/bin/studygovernor " in text and "@common@" not in text and "ProtectSystem=strict" in text
    settings = tmp_path / "etc/studygovernor/studygovernor.env"
    settings.write_text("STUDYGOV_PORT=1\n")
    done = make("install", SYSTEMD="yes")
    assert "kept: " in done.stdout and settings.read_text() == "STUDYGOV_PORT=1\n"

    done = make("uninstall")
    assert done.returncode == 0 and files() == {"etc/studygovernor/studygovernor.env"} and "kept: " in done.stdout
    for variables, words in [({"PREFIX": "relative"}, "PREFIX: 'relative'"), ({"BINARY": "/nowhere"}, "BINARY: /nowhere"), ({"SYSTEMD": "maybe"}, "SYSTEMD")]:
        done = make("install", **variables)
        assert done.returncode != 0 and words in done.stderr, done.stderr
