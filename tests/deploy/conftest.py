"""The rendered chart, for the tests in this folder."""

import functools
import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

# `make test-deploy`, which has its own settings.
collect_ignore = ["real"]

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "studygovernor"
PROGRAM = Path(os.environ.get("STUDYGOVERNOR_PROGRAM", ROOT / "target" / "debug" / "studygovernor"))
CI = sorted(path.stem for path in (CHART / "ci").glob("*.yaml"))
# The oldest and the newest version that kubernetes-validate supports.
OLDEST, NEWEST = "1.25", "1.37"


@functools.cache
def program_list():
    """What the program says of its settings."""
    if not PROGRAM.exists():
        pytest.skip(f"{PROGRAM} was not built")
    done = subprocess.run([PROGRAM, "settings", "--json"], capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]})
    return json.loads(done.stdout)


def program_settings():
    """All settings of the program: name to description."""
    return {one["name"]: one for one in program_list()["settings"]}


def ignored_names():
    """The names that the program accepts and ignores."""
    return {one["name"] for one in program_list()["ignored"]}


def helm(*arguments, stdin=None):
    """Runs helm and returns its exit code, output and messages."""
    done = subprocess.run(["helm", *arguments], capture_output=True, text=True, input=stdin, check=False)
    return done.returncode, done.stdout, done.stderr


def files_of(name):
    """The values files of one example; some need another file first."""
    before = CHART / f"values-{name}.yaml"
    return [path for path in (before, CHART / "ci" / f"{name}.yaml") if path.exists()]


@functools.cache
def rendered_text(name="minimal", values="", kube=NEWEST, release="sg", namespace="studies", more=()):
    """The manifests as text. `name` is an example in ci/, `values` is YAML on top of it."""
    options = [option for path in files_of(name) for option in ("-f", str(path))]
    arguments = ["template", release, str(CHART), "-n", namespace, "--kube-version", kube, *options, "-f", "-", *more]
    code, out, err = helm(*arguments, stdin=values)
    assert code == 0, f"{name}: {err}"
    return out


@functools.cache
def rendered(name="minimal", values="", **options):
    """The manifests as objects; shared between tests, which do not change them."""
    return [one for one in yaml.load_all(rendered_text(name, values, **options), yaml.CSafeLoader) if one]


def refusal(values, name="minimal"):
    """The error message for refused values."""
    options = [option for path in files_of(name) for option in ("-f", str(path))]
    code, _, err = helm("template", "sg", str(CHART), *options, "-f", "-", stdin=values)
    assert code != 0, f"accepted: {values}"
    return err


def of_kind(manifests, *kinds):
    return [one for one in manifests if one["kind"] in kinds]


def named(manifests, kind, name):
    found = [one for one in of_kind(manifests, kind) if one["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def pod_of(manifest):
    """Metadata and spec of the pod that an object creates; `None` for other objects."""
    if manifest["kind"] == "Pod":
        return manifest
    if manifest["kind"] in ("Deployment", "StatefulSet", "Job"):
        return manifest["spec"]["template"]
    return None


def pods(manifests):
    """Pairs of an object and its pod."""
    return [(one, pod) for one in manifests if (pod := pod_of(one))]


def containers(pod):
    return pod["spec"].get("initContainers", []) + pod["spec"]["containers"]


def own_containers(pod):
    """The containers that the chart creates, without those that the values add."""
    return [one for one in containers(pod) if one["name"] not in ("first", "beside")]


def settings_of(manifests, workload):
    """All variables of the first container of a workload: name to text, or to the reference to a secret."""
    found = {}
    container = pod_of(workload)["spec"]["containers"][0]
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            found.update(named(manifests, "ConfigMap", source["configMapRef"]["name"])["data"])
    for one in container.get("env", []):
        found[one["name"]] = one.get("value", one.get("valueFrom"))
    return found


def server_of(manifests):
    [server] = [one for one in of_kind(manifests, "Deployment") if one["metadata"]["name"].endswith("-server")]
    return server


def workers_of(manifests):
    return [one for one in of_kind(manifests, "Deployment") if "-worker-" in one["metadata"]["name"]]


@pytest.fixture(params=CI)
def example(request):
    """Each example of ci/, as objects."""
    return rendered(request.param)
