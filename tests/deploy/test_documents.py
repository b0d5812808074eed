"""Consistency of documents and code: README and schema with the values, settings with the program, alerts with its metrics."""

import json
import re
import subprocess
import sys

import pytest
import yaml
from conftest import CHART, CI, ROOT, containers, named, of_kind, pods, refusal, rendered, server_of, settings_of, workers_of


def test_readme_and_schema_are_those_of_the_values():
    done = subprocess.run([sys.executable, ROOT / "charts" / "generate", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_object_of_the_schema_is_closed_or_kubernetes_own():
    def walk(schema, path):
        if schema.get("type") == "object" and "properties" in schema:
            assert schema.get("additionalProperties") is False, path
        for name, inner in schema.get("properties", {}).items():
            assert "type" in inner or "enum" in inner or "anyOf" in inner or "$ref" in inner or "Belongs" in inner.get("description", ""), name
            walk(inner, f"{path}.{name}")

    schema = json.loads((CHART / "values.schema.json").read_text())
    walk(schema, "")
    walk(schema["definitions"]["workerGroup"], "workerDefaults")


def program_settings():
    """All names of the table of settings: `NAME`, and `_SUFFIX` of the preceding name."""
    names = set()
    text = (ROOT / "docs" / "reference" / "settings.md").read_text()
    for line in text.splitlines():
        if not line.startswith("| `"):
            continue
        row = []
        for name in re.findall(r"`(_?[A-Z][A-Z0-9_]*)`", line.split("|")[1]):
            row.append(next_to(row, name) if name.startswith("_") else name)
        names.update(row)
    return names


def next_to(row, suffix):
    """`STUDYGOV_EMAIL_FROM`, `_TO` is `STUDYGOV_EMAIL_TO`: the suffix is added to the first part of a preceding name
    for which the program knows the result.
    """
    known = set(re.findall(r'"([A-Z][A-Z0-9_]+)"', "".join(path.read_text() for path in (ROOT / "src" / "config").glob("*.rs"))))
    for name in row:
        parts = name.split("_")
        for count in range(len(parts), 0, -1):
            candidate = "_".join(parts[:count]) + suffix
            if candidate in known:
                return candidate
    raise AssertionError(f"{row}, {suffix}: the program has no such setting")


def owned():
    text = (CHART / "templates" / "_owned.tpl").read_text()
    return dict(re.findall(r"^([A-Z][A-Z0-9_]+): (.*)$", text, re.M))


def test_every_setting_of_the_program_can_be_set():
    names = program_settings()
    assert len(names) > 60 and {"STUDYGOV_EMAIL_TO", "STUDYGOV_EXTERNAL_PROTO", "SECURITY_CHANGEABLE", "DB_NAME"} <= names
    free = sorted(name for name in names if name.removesuffix("_FILE") not in owned())
    secret = [name for name in free if re.search("(PASSWORD|SECRET|TOKEN|_KEY)$", name)]
    plain = [name for name in free if name not in secret and name != "STUDYGOV_WORKER_CONCURRENCY"]
    values = {"settings": {name: "x" for name in plain}, "extraEnv": [{"name": name, "value": "x"} for name in secret]}
    manifests = rendered(values=yaml.safe_dump(values))
    for one in [server_of(manifests), *workers_of(manifests)]:
        found = settings_of(manifests, one)
        assert {name for name in plain + secret if found.get(name) == "x"} == set(plain + secret)


def test_what_the_chart_sets_is_known_to_be_set_by_it():
    """Otherwise `settings` could set a variable a second time."""
    for name in CI:
        manifests = rendered(name)
        extra = {"XNAT_TOKEN", "HTTPS_PROXY", "STUDYGOV_UPLOAD_LIMIT", "STUDYGOV_LEASE_SECONDS", "SECURITY_PASSWORD_LENGTH_MIN"}
        for one in [server_of(manifests), *workers_of(manifests)]:
            assert set(settings_of(manifests, one)) - extra - {"STUDYGOV_WORKER_CONCURRENCY"} <= set(owned())


def test_a_variable_is_set_by_its_value_only():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    message = refusal(yaml.safe_dump({"settings": {name: "x" for name in owned()}}))
    for name, where in owned().items():
        assert f"settings.{name}: use {where}." in message
        for path in re.split(" or | and ", where):
            inner = values
            for part in path.split(".") if not path.startswith(("no value", "workers.<group>")) else []:
                inner = inner[part]


# Names that the program reads in addition to those in src/config.
OTHERS = {"HOME", "GIT_SSH_COMMAND"}
# Names and commands that the program will get with the same issue as the chart; empty if it has them all.
AWAITED = set()


def test_the_program_reads_what_the_chart_sets():
    text = "".join(path.read_text() for path in (ROOT / "src").rglob("*.rs"))
    unread = {name for name in owned() if name not in OTHERS and f'"{name}"' not in text}
    assert not unread - AWAITED, f"the program does not read {sorted(unread)}"


@pytest.mark.parametrize("arguments", ["serve", "worker", "db migrate", "health", "kubernetes make-secrets"])
def test_the_commands_of_the_pods_exist(arguments):
    """Each command starts a container, and is a subcommand of the program."""
    used = set()
    for name in CI:
        for _, pod in pods(rendered(name)):
            for container in containers(pod):
                used.add(" ".join(container.get("args", [])))
    assert [one for one in used if one.startswith(arguments)]
    if arguments in AWAITED:
        return
    first = arguments.split()[0].capitalize()
    assert re.search(rf"^    {first}\(", (ROOT / "src" / "cli" / "mod.rs").read_text(), re.M), f"no command {first}"


def test_alerts_ask_for_metrics_that_exist():
    [rules] = of_kind(rendered("everything"), "PrometheusRule")
    expressions = [rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]]
    assert len(expressions) >= 8
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.rs"))
    for expression in expressions:
        assert expression.count("(") == expression.count(")") and 'namespace="studies",service="sg-studygovernor-metrics"' in expression
        for metric in re.findall(r"studygovernor_[a-z_]+", expression):
            assert f'"{metric}"' in source, metric
    for group in rules["spec"]["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("critical", "warning") and rule["labels"]["team"] == "imaging"
            assert rule["annotations"]["summary"] and rule["annotations"]["description"].endswith(".")


def test_the_dashboard_shows_metrics_that_exist():
    name = "sg-studygovernor-dashboards"
    assert not [one for one in of_kind(rendered(), "ConfigMap") if one["metadata"]["name"] == name]
    config = named(rendered("everything"), "ConfigMap", name)
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1" and config["metadata"]["annotations"] == {"grafana_folder": "Imaging"}
    [text] = config["data"].values()
    dashboard = json.loads(text)
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.rs"))
    shown = set(re.findall(r"studygovernor_[a-z_]+", text))
    assert len(shown) >= 10
    for metric in shown:
        assert f'"{metric.removesuffix("_bucket")}"' in source, metric
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"]) >= 10
    for panel in dashboard["panels"]:
        assert panel["title"] and panel["description"] and panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        for target in panel["targets"]:
            assert target["expr"].count("(") == target["expr"].count(")") and target["expr"].count("{") == target["expr"].count("}")


def test_the_guide_names_every_example_and_no_other_value():
    guide = (ROOT / "docs" / "guide" / "deploy-kubernetes.md").read_text()
    for name in CI:
        assert f"ci/{name}.yaml" in guide
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    documents = guide + (CHART / "UPGRADING.md").read_text() + (ROOT / "docs" / "guide" / "develop-on-kubernetes.md").read_text()
    for path in set(re.findall(r"`((?:" + "|".join(values) + r")(?:\.[A-Za-z_]+)+)", documents)):
        if path.split(".")[0] == "workers" or path.endswith((".md", ".yaml")):
            continue
        inner = values
        for part in path.split("."):
            assert isinstance(inner, dict) and part in inner, f"{path} is no value of the chart"
            inner = inner[part]
