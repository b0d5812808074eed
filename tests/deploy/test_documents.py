"""Consistency of documents and code: README and schema with the values, settings with the program, alerts with its metrics."""

import json
import re
import subprocess
import sys

import pytest
import yaml
from conftest import (
    CHART,
    CI,
    ROOT,
    containers,
    ignored_names,
    named,
    of_kind,
    pods,
    program_settings,
    refusal,
    rendered,
    server_of,
    settings_of,
    workers_of,
)


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


def owned():
    text = (CHART / "templates" / "_owned.tpl").read_text()
    return dict(re.findall(r"^([A-Z][A-Z0-9_]+): (.*)$", text, re.M))


def test_every_setting_of_the_program_can_be_set():
    """By the value that the program names, or by its name in `settings` or `extraEnv`."""
    settings = program_settings()
    assert len(settings) > 60 and {"STUDYGOV_EMAIL_TO", "STUDYGOV_EXTERNAL_PROTO", "SECURITY_CHANGEABLE", "DB_NAME"} <= set(settings)
    by = {how: sorted(name for name, one in settings.items() if one["chart"]["how"] == how) for how in ("settings", "extraEnv", "never")}
    values = {"settings": {name: "x" for name in by["settings"]}, "extraEnv": [{"name": name, "value": "x"} for name in by["extraEnv"]]}
    manifests = rendered(values=yaml.safe_dump(values))
    for one in [server_of(manifests), *workers_of(manifests)]:
        found = settings_of(manifests, one)
        assert not [name for name in by["settings"] + by["extraEnv"] if found.get(name) != "x"]
    # Secrets do not belong into a ConfigMap.
    assert not [name for name in by["settings"] if settings[name]["secret"]]
    assert all(settings[name]["chart"]["text"] for name in by["never"])


def test_the_program_and_the_chart_name_the_same_value_for_a_setting():
    chart = {name: where for name, where in owned().items() if name not in ignored_names()}
    own = {name: one["chart"]["text"] for name, one in program_settings().items() if one["chart"]["how"] == "value"}
    own = {name: where for name, where in own.items() if name in chart or not where.startswith("workers.<group>")}
    assert own == chart


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


def test_the_program_reads_what_the_chart_sets():
    unread = set(owned()) - set(program_settings()) - ignored_names()
    assert not unread, f"the program does not read {sorted(unread)}"


@pytest.mark.parametrize("arguments", ["serve", "worker", "db migrate", "health", "kubernetes make-secrets"])
def test_the_commands_of_the_pods_exist(arguments):
    """Each command starts a container, and is a subcommand of the program."""
    used = set()
    for name in CI:
        for _, pod in pods(rendered(name)):
            for container in containers(pod):
                used.add(" ".join(container.get("args", [])))
    assert [one for one in used if one.startswith(arguments)]
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
