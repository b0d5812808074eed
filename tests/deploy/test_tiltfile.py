"""The Tiltfile, evaluated with functions that record their arguments: the effects of `tilt up`."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import starlark
import yaml
from conftest import ROOT, containers, helm, of_kind, pods, server_of, settings_of, workers_of

# Tilt functions that are members of others: `config.parse()` and `os.getcwd()` are members of structs.
PRELUDE = """
config = struct(define_bool=define_bool, parse=parse)
os = struct(getcwd=getcwd)
TRIGGER_MODE_MANUAL = 'manual'
"""


class Tilt:
    """One evaluation of the Tiltfile."""

    def __init__(self, root, arguments):
        self.root, self.arguments = root, arguments
        self.calls = {}
        self.flags = []
        dialect = starlark.Dialect.extended()
        dialect.enable_top_level_stmt = True
        module = starlark.Module()
        for name in ("allow_k8s_contexts", "local_resource", "docker_build", "k8s_resource"):
            module.add_callable(name, self.recorder(name))
        for name in ("sync", "run", "link", "port_forward"):
            module.add_callable(name, lambda *positional, name=name, **named: [name, list(positional), named])
        for name in ("define_bool", "parse", "getcwd", "read_file", "helm", "decode_yaml_stream", "encode_yaml_stream", "k8s_yaml"):
            module.add_callable(name, getattr(self, name))
        extended = starlark.Globals.extended_by([starlark.LibraryExtension.StructType])
        text = PRELUDE + (ROOT / "Tiltfile").read_text()
        starlark.eval(module, starlark.parse("Tiltfile", text, dialect), extended)

    def recorder(self, name):
        def record(*positional, **named):
            self.calls.setdefault(name, []).append((positional, named))

        return record

    def define_bool(self, name, usage=""):
        assert usage
        self.flags.append(name)

    def parse(self):
        assert set(self.arguments) <= set(self.flags)
        return self.arguments

    def getcwd(self):
        return "/home/someone/studygovernor"

    def read_file(self, path, default=""):
        file = self.root / path
        return file.read_text() if file.exists() else default

    def helm(self, chart, name, namespace, values, set):
        options = [option for path in values for option in ("-f", ROOT / path)] + [option for one in set for option in ("--set", one)]
        code, out, err = helm("template", name, str(ROOT / chart), "-n", namespace, *[str(option) for option in options])
        assert code == 0, err
        return out

    def decode_yaml_stream(self, text):
        return [one for one in yaml.load_all(text, yaml.CSafeLoader) if one]

    def encode_yaml_stream(self, objects):
        return yaml.safe_dump_all(objects)

    def k8s_yaml(self, text):
        self.manifests = list(yaml.load_all(text, yaml.CSafeLoader))

    def resources(self):
        """All resources by name: their arguments."""
        found = {positional[0]: named for positional, named in self.calls["local_resource"]}
        found.update({named["new_name"]: named for _, named in self.calls["k8s_resource"]})
        return found


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return Tilt(tmp_path_factory.mktemp("tilt"), {})


@pytest.fixture(scope="module", params=[False, True], ids=["broker", "local"])
def tilt(request, tmp_path_factory):
    return Tilt(tmp_path_factory.mktemp("tilt"), {"local": True} if request.param else {})


def test_it_deploys_into_its_own_cluster_only(tilt):
    assert tilt.calls["allow_k8s_contexts"] == [(("k3d-studygovernor",), {})]


def test_the_image_is_the_one_of_the_chart(tilt):
    [((name, context), options)] = tilt.calls["docker_build"]
    assert context == "."
    for one in [server_of(tilt.manifests), *workers_of(tilt.manifests)]:
        assert one["spec"]["template"]["spec"]["containers"][0]["image"].split(":")[0] == name
    assert (ROOT / options["dockerfile"]).exists()
    assert options["build_args"] == {"SOURCE": tilt.getcwd()}


def test_what_is_synced_is_in_the_context(tilt):
    [(_, options)] = tilt.calls["docker_build"]
    only = options["only"]
    copied = re.findall(r"^COPY (?:--\S+ )?(.*) \S+$", (ROOT / options["dockerfile"]).read_text(), re.M)
    assert sorted(path for line in copied for path in line.split()) == sorted(only)
    ignore = (ROOT / (options["dockerfile"] + ".dockerignore")).read_text().split()
    assert ignore[0] == "*" and sorted(ignore[1:]) == sorted(f"!{path}" for path in only)
    syncs = {positional[0]: positional[1] for kind, positional, _ in options["live_update"] if kind == "sync"}
    assert set(syncs) < set(only)
    assert syncs["templates"] == f"{tilt.getcwd()}/templates" and syncs["assets"] == f"{tilt.getcwd()}/assets"
    [[_, [command], named]] = [one for one in options["live_update"] if one[0] == "run"]
    assert command == "/opt/dev/restart"
    assert set(named["trigger"]) <= set(syncs) and "templates" in named["trigger"] and "assets" not in named["trigger"]
    order = [one[0] for one in options["live_update"]]
    assert order == sorted(order, reverse=True), "Tilt wants every sync before the first run"


def test_templates_and_assets_are_read_from_disk_by_a_debug_build():
    """The assumptions on which live updates depend."""
    manifest = (ROOT / "Cargo.toml").read_text()
    embed = re.search(r"^rust-embed = .*$", manifest, re.M).group()
    assert "debug-embed" not in embed
    assert '#[folder = "templates/"]' in (ROOT / "src" / "view" / "mod.rs").read_text()
    assert '#[folder = "assets/"]' in (ROOT / "src" / "http" / "assets.rs").read_text()
    assert "--release" not in (ROOT / "charts" / "dev" / "compile").read_text()


def test_what_is_compiled_is_what_is_synced(tilt):
    compile = tilt.resources()["compile"]
    script = ROOT / compile["cmd"]
    assert os.access(script, os.X_OK)
    assert "target/tilt/out/studygovernor" in script.read_text()
    for path in compile["deps"]:
        assert (ROOT / path).exists()
    assert "templates" not in compile["deps"], "a changed template needs no compiler"


def test_resources_name_what_there_is(tilt):
    workloads = {one["metadata"]["name"] for one in of_kind(tilt.manifests, "Deployment", "StatefulSet")}
    assert {positional[0] for positional, _ in tilt.calls["k8s_resource"]} == workloads
    resources = tilt.resources()
    for name, options in resources.items():
        assert set(options.get("resource_deps", [])) <= set(resources) - {name}


def test_without_a_broker_servers_run_callbacks(usual, tmp_path):
    assert "worker" in usual.resources() and "rabbitmq" in usual.resources()
    local = Tilt(tmp_path, {"local": True})
    assert "worker" not in local.resources() and "rabbitmq" not in local.resources()
    assert settings_of(local.manifests, server_of(local.manifests))["STUDYGOV_CALLBACK_METHOD"] == "local"


def test_there_are_neither_hooks_nor_secrets_that_a_hook_makes(tilt):
    for one in tilt.manifests:
        assert "helm.sh/hook" not in one["metadata"].get("annotations", {})
        assert one["metadata"].get("namespace", "studygovernor") == "studygovernor"
    assert "-generated" not in yaml.safe_dump_all(tilt.manifests)
    assert tilt.manifests[0] == {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "studygovernor"}}


def test_the_product_is_at_the_address_that_is_shown(usual, tmp_path):
    def address(tilt):
        [[_, [url, text], _]] = tilt.resources()["server"]["links"]
        assert "admin" in text and "supersecretpassword" in text
        found = settings_of(tilt.manifests, server_of(tilt.manifests))
        return url, found["STUDYGOV_EXTERNAL_PORT"], found["SCRIPT_NAME"]

    assert address(usual) == ("http://localhost/studygovernor", "80", "/studygovernor")
    (tmp_path / "target" / "tilt").mkdir(parents=True)
    (tmp_path / "target" / "tilt" / "port").write_text("8080\n")
    assert address(Tilt(tmp_path, {})) == ("http://localhost:8080/studygovernor", "8080", "/studygovernor")
    [secret] = of_kind(usual.manifests, "Secret")
    assert secret["stringData"]["admin_password"] == "supersecretpassword"
    assert settings_of(usual.manifests, server_of(usual.manifests))["STUDYGOV_ADMIN_USERNAME"] == "admin"
    assert len(of_kind(usual.manifests, "Ingress")) == 1


def test_tilt_can_write_into_the_containers(tilt):
    for one, pod in pods(tilt.manifests):
        if one in [server_of(tilt.manifests), *workers_of(tilt.manifests)]:
            assert all(container["securityContext"]["readOnlyRootFilesystem"] is False for container in containers(pod))


# The scripts of the image


def wait_for(condition, what):
    import time

    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(f"waited a minute for {what}")


def test_restart_runs_the_program_again_and_a_stop_ends_both(tmp_path):
    log = tmp_path / "log"
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\ntrap "echo stopped >>{log}; exit 7" TERM\necho "started $*" >>{log}\nwhile :; do sleep 0.1; done\n')
    program.chmod(0o755)
    environment = {**os.environ, "DEV_FOLDER": str(tmp_path), "DEV_PROGRAM": str(program)}
    dev = ROOT / "charts" / "dev"
    lines = lambda: log.read_text().split("\n")[:-1] if log.exists() else []
    running = subprocess.Popen([dev / "run", "serve", "--x"], env=environment)
    try:
        wait_for(lambda: lines() == ["started serve --x"], "the start")
        subprocess.run([dev / "restart"], env=environment, check=True)
        wait_for(lambda: lines() == ["started serve --x", "stopped", "started serve --x"], "the second start")
        running.terminate()
        assert running.wait(timeout=60) == 7
        assert lines()[-1] == "stopped"
    finally:
        running.kill()


def test_a_program_that_ends_ends_the_container(tmp_path):
    environment = {**os.environ, "DEV_FOLDER": str(tmp_path), "DEV_PROGRAM": "/bin/false"}
    assert subprocess.run([ROOT / "charts" / "dev" / "run", "serve"], env=environment, timeout=60, check=False).returncode == 1


# The compiler


BUILD = "mkdir -p target/tilt/debug; echo one >target/tilt/debug/studygovernor"


@pytest.mark.parametrize(
    ("libc", "system", "cargo", "place"),
    [("2.36", "Linux", True, "cargo"), ("2.31", "Linux", True, "cargo"), ("2.39", "Linux", True, "docker"), ("2.36", "Linux", False, "docker"), ("", "Darwin", True, "docker")],
)
def test_the_program_is_compiled_for_the_image(libc, system, cargo, place, tmp_path):
    libc_script = f"echo 'glibc {libc}'" if libc else "exit 1"
    scripts = {"docker": BUILD, "getconf": libc_script, "uname": f"echo {system}"} | ({"cargo": BUILD} if cargo else {})
    path = tools(tmp_path / "bin", **scripts)
    for name in ("sort", "cmp", "cp"):
        (path / name).symlink_to(Path("/usr/bin") / name)
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "charts" / "dev", copy / "charts" / "dev")
    calls = tmp_path / "calls"
    calls.write_text("")
    environment = {"PATH": str(path), "CALLS": str(calls)}
    for _ in range(2):
        subprocess.run([copy / "charts" / "dev" / "compile"], env=environment, check=True)
    made = [call for call in calls.read_text().splitlines() if call.startswith(("cargo", "docker"))]
    assert {call.split()[0] for call in made} == {place}
    wanted = "build --locked --bin studygovernor --target-dir target/tilt"
    if place == "docker":
        # At the same path, because a debug build looks for templates where it was compiled.
        assert f"-v {copy}:{copy} -w {copy}" in made[0] and made[0].endswith(f"rust:1-bookworm cargo {wanted}")
    else:
        assert made[0] == f"cargo {wanted}"
    assert (copy / "target/tilt/out/studygovernor").read_text() == "one\n"


def test_a_program_that_did_not_change_is_not_copied(tmp_path):
    path = tools(tmp_path / "bin", cargo=BUILD, getconf="echo 'glibc 2.36'", uname="echo Linux")
    for name in ("sort", "cmp", "cp"):
        (path / name).symlink_to(Path("/usr/bin") / name)
    shutil.copytree(ROOT / "charts" / "dev", tmp_path / "copy" / "charts" / "dev")
    out = tmp_path / "copy" / "target" / "tilt" / "out" / "studygovernor"
    environment = {"PATH": str(path), "CALLS": str(tmp_path / "calls")}
    subprocess.run([tmp_path / "copy/charts/dev/compile"], env=environment, check=True)
    os.utime(out, (1, 1))
    subprocess.run([tmp_path / "copy/charts/dev/compile"], env=environment, check=True)
    assert out.stat().st_mtime == 1
    out.write_text("another")
    subprocess.run([tmp_path / "copy/charts/dev/compile"], env=environment, check=True)
    assert out.read_text() == "one\n"


# make up, make down


def tools(folder, **scripts):
    """A folder for PATH with the usual programs and the given stand-ins, each of which is a shell script."""
    folder.mkdir()
    for name in ("bash", "sh", "env", "dirname", "awk", "grep", "sed", "cat", "mkdir", "rm", "make", "id", "touch"):
        (folder / name).symlink_to(Path("/usr/bin") / name)
    for name, script in scripts.items():
        (folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >>"$CALLS"\n{script}\n')
        (folder / name).chmod(0o755)
    return folder


def make(target, path, tmp_path, *arguments):
    """Runs make in a copy of the files that it needs. Returns the exit code, all output, and the calls of stand-ins."""
    copy = tmp_path / "copy"
    if not copy.exists():
        shutil.copytree(ROOT / "charts" / "dev", copy / "charts" / "dev")
        shutil.copy(ROOT / "Makefile", copy)
    calls = tmp_path / "calls"
    calls.write_text("")
    environment = {"PATH": str(path), "CALLS": str(calls), "HOME": str(tmp_path)}
    done = subprocess.run(["make", "-s", target, *arguments], cwd=copy, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr, calls.read_text().splitlines()


def test_missing_tools_are_named_in_one_sentence(tmp_path):
    code, said, _ = make("up", tools(tmp_path / "bin"), tmp_path)
    assert code != 0
    [sentence] = [line for line in said.splitlines() if not line.startswith("make: ***")]
    for name, place in (("docker", "docs.docker.com"), ("k3d", "k3d.io"), ("kubectl", "kubernetes.io"), ("helm", "helm.sh"), ("tilt", "docs.tilt.dev")):
        assert f"{name} (https://{place}" in sentence
    code, said, _ = make("down", tools(tmp_path / "less"), tmp_path)
    assert code != 0 and "docker (" in said and "k3d (" in said and "tilt" not in said


def test_only_what_is_missing_is_named(tmp_path):
    path = tools(tmp_path / "bin", docker="", k3d="", kubectl="", helm="")
    code, said, _ = make("up", path, tmp_path)
    assert code != 0 and said.splitlines()[0] == "make up: these tools are missing: tilt (https://docs.tilt.dev/install.html)."


def test_docker_that_does_not_answer_is_named(tmp_path):
    path = tools(tmp_path / "bin", docker="exit 1", k3d="", kubectl="", helm="", tilt="")
    for target in ("up", "down"):
        code, said, calls = make(target, path, tmp_path)
        assert code != 0 and said.startswith(f"make {target}: Docker does not answer")
        assert calls == ["docker info"]


def free_port():
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_a_cluster_is_made_with_a_registry_and_found_again(tmp_path):
    there = tmp_path / "there"
    k3d = f'case "$2" in list) [ ! -e {there} ] || echo "studygovernor 1/1 0/0 true" ;; create) touch {there} ;; delete) rm {there} ;; esac'
    path = tools(tmp_path / "bin", docker="", k3d=k3d, kubectl="", helm="", tilt="")
    port = free_port()
    code, said, calls = make("up", path, tmp_path, f"PORT={port}")
    assert code == 0, said
    assert f"http://localhost:{port}/studygovernor with admin and supersecretpassword" in said
    [create] = [call for call in calls if call.startswith("k3d cluster create")]
    assert f"--port 127.0.0.1:{port}:80@loadbalancer" in create and "--registry-create k3d-studygovernor-registry:127.0.0.1:5005" in create
    # A second time: the same URL, without naming the port.
    code, said, calls = make("up", path, tmp_path)
    assert code == 0 and f"localhost:{port}/studygovernor" in said
    assert "k3d cluster start studygovernor" in calls and not [call for call in calls if "create" in call]
    code, said, calls = make("down", path, tmp_path)
    assert code == 0 and "k3d cluster delete studygovernor" in calls and not (tmp_path / "copy/target/tilt/port").exists()
    code, said, calls = make("down", path, tmp_path)
    assert code == 0 and "There is no cluster" in said


def test_ctlptl_is_used_where_it_is(tmp_path):
    seen = tmp_path / "seen"
    path = tools(tmp_path / "bin", docker="", k3d="", kubectl="", helm="", tilt="", ctlptl=f"cat >{seen}")
    port = free_port()
    code, said, calls = make("up", path, tmp_path, f"PORT={port}")
    assert code == 0, said
    assert "ctlptl apply -f -" in calls and not [call for call in calls if call.startswith("k3d cluster create")]
    registry, cluster = yaml.safe_load_all(seen.read_text())
    assert (registry["kind"], cluster["kind"]) == ("Registry", "Cluster") and cluster["registry"] == registry["name"]
    assert cluster["k3d"]["v1alpha5Simple"]["ports"][0]["port"] == f"127.0.0.1:{port}:80"
    assert cluster["name"] == "k3d-studygovernor" and cluster["product"] == "k3d"


def test_a_port_in_use_is_named(tmp_path):
    import socket

    path = tools(tmp_path / "bin", docker="", k3d="", kubectl="", helm="", tilt="")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        port = one.getsockname()[1]
        code, said, calls = make("up", path, tmp_path, f"PORT={port}")
    assert code != 0 and f"port {port} of this machine is in use" in said
    assert not [call for call in calls if "create" in call]
