"""Rules for the manifests of every example, one test per rule."""

import os
import re
import subprocess

import pytest
import yaml
from conftest import (
    CHART,
    CI,
    containers,
    helm,
    named,
    of_kind,
    own_containers,
    pod_of,
    pods,
    refusal,
    rendered,
    rendered_text,
    server_of,
    settings_of,
    workers_of,
)

LABEL = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")
NAME = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
LONG_RUNNING = ("Deployment", "StatefulSet")
OPTIONAL = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "ScaledObject", "HTTPRoute"}


# Names and labels


@pytest.mark.parametrize("release", ["sg", "studygovernor", "a" * 53, "imaging-of-the-heart-and-of-other-organs-of-the-cohort"[:53]])
def test_names_belong_to_the_release_and_fit(release):
    for name in ("minimal", "workers"):
        # The longest allowed name of a group.
        values = "workers: {fourteen-chars: {queues: [x], keda: {enabled: true}}}"
        for one in rendered(name, values, release=release):
            own = one["metadata"]["name"]
            assert NAME.match(own), own
            assert own.startswith(release[:25]), own
            # Pods of a StatefulSet get a label with a hash after the name; KEDA prepends `keda-hpa-`.
            limit = {"StatefulSet": 52, "CronJob": 52, "ScaledObject": 54}.get(one["kind"], 63)
            assert len(own) <= limit, f"{one['kind']} {own}"


def test_two_long_releases_have_different_names():
    one, other = (rendered(release="a" * 52 + end)[0]["metadata"]["name"] for end in "bc")
    assert one != other


def test_names_are_unique(example):
    keys = [(one["kind"], one["metadata"]["name"]) for one in example]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("name", CI)
def test_nothing_is_left_unrendered(name):
    text = rendered_text(name)
    assert "{{" not in text and "<no value>" not in text and "%!" not in text
    assert not [line for line in text.splitlines() if line != line.rstrip()], "blanks at the end of a line"


def test_labels_are_valid_and_complete(example):
    for one in example:
        labels = one["metadata"].get("labels", {})
        if one["metadata"]["name"].endswith("-more"):
            continue  # extraObjects are defined by the user
        for name in ("name", "instance", "component", "version", "managed-by"):
            assert f"app.kubernetes.io/{name}" in labels, one["metadata"]["name"]
        pod = pod_of(one)
        for key, value in {**labels, **(pod["metadata"].get("labels", {}) if pod else {})}.items():
            assert isinstance(value, str) and LABEL.match(value), f"{key}: {value}"


def test_selectors_select_the_pods_of_their_object(example):
    for one in of_kind(example, *LONG_RUNNING):
        selector, labels = one["spec"]["selector"]["matchLabels"], pod_of(one)["metadata"]["labels"]
        assert selector.items() <= labels.items()
        assert selector.items() <= one["metadata"]["labels"].items()
        # Selectors cannot be changed, so they must not contain anything that changes with a version.
        assert set(selector) == {f"app.kubernetes.io/{part}" for part in ("name", "instance", "component")}


def test_selectors_and_names_are_those_of_the_releases_before():
    """Neither selectors nor names of claims may change in an upgrade; a new major version changes this file and UPGRADING.md."""
    found = {}
    for one in rendered("everything") + rendered("minimal"):
        name = f"{one['kind']} {one['metadata']['name']}"
        if one["kind"] in LONG_RUNNING:
            found[name] = one["spec"]["selector"]["matchLabels"]
        elif one["kind"] == "PersistentVolumeClaim":
            found[name] = one["metadata"]["labels"]["app.kubernetes.io/component"]
    known = yaml.safe_load((CHART.parents[1] / "tests" / "deploy" / "immutable.yaml").read_text())
    assert found == known


# Security


def test_pods_and_containers_are_unprivileged(example):
    for one, pod in pods(example):
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True, one["metadata"]["name"]
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in own_containers(pod):
            wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
            assert container["securityContext"] == wanted, container["name"]


def test_our_image_runs_as_its_user_in_group_0():
    context = pod_of(server_of(rendered()))["spec"]["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (10001, 0, 10001)


def test_containers_can_be_given_more():
    values = "securityContext: {readOnlyRootFilesystem: false, capabilities: {add: [NET_RAW]}}"
    for _, pod in pods(rendered(values=values)):
        for container in containers(pod):
            assert container["securityContext"]["readOnlyRootFilesystem"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_RAW"]}


def test_the_cluster_can_choose_all_ids():
    for _, pod in pods(rendered("openshift")):
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(pod["spec"]["securityContext"])
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True


def test_no_container_starts_as_root_to_change_owners(example):
    for _, pod in pods(example):
        for container in containers(pod):
            assert "chown" not in str(container.get("command", "")) and container.get("securityContext", {}).get("runAsUser") != 0


def test_the_token_is_mounted_where_it_is_needed_only(example):
    for one, pod in pods(example):
        needed = one["metadata"]["name"].endswith("-make-secrets")
        assert pod["spec"]["automountServiceAccountToken"] is needed, one["metadata"]["name"]


def test_services_of_the_namespace_set_no_variables(example):
    for _, pod in pods(example):
        assert pod["spec"]["enableServiceLinks"] is False


def test_the_job_of_secrets_may_only_create_and_fill_one_secret():
    role = named(rendered(), "Role", "sg-studygovernor-make-secrets")
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["sg-studygovernor-generated"], "verbs": ["get", "patch"]},
    ]


# Hooks


def test_hooks_run_at_install_and_upgrade_in_order(example):
    for one in example:
        notes = one["metadata"].get("annotations", {})
        if "helm.sh/hook" not in notes:
            continue
        if notes["helm.sh/hook"] == "test":
            continue
        assert notes["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert notes["helm.sh/hook-weight"] == ("-10" if one["kind"] == "Job" else "-11")
        assert "before-hook-creation" in notes["helm.sh/hook-delete-policy"]


def test_hooks_need_nothing_that_is_no_hook(example):
    def is_hook(one):
        return "helm.sh/hook" in one["metadata"].get("annotations", {})

    for one in example:
        if not is_hook(one) or one["metadata"]["annotations"]["helm.sh/hook"] == "test" or not pod_of(one):
            continue
        spec = pod_of(one)["spec"]
        assert is_hook(named(example, "ServiceAccount", spec["serviceAccountName"]))
        for container in spec["containers"]:
            assert "envFrom" not in container and "env" not in container
        assert all(set(volume) == {"name", "emptyDir"} for volume in spec["volumes"])


def test_migrations_are_no_hook():
    [job] = [one for one in of_kind(rendered("external-postgres"), "Job")]
    assert "annotations" not in job["metadata"]
    assert pod_of(job)["spec"]["containers"][0]["args"] == ["db", "migrate"]
    assert settings_of(rendered("external-postgres"), server_of(rendered("external-postgres")))["STUDYGOV_MIGRATE"] == "wait"


def test_another_migration_is_another_job():
    def name(values="", more=()):
        return of_kind(rendered("external-postgres", values, more=more), "Job")[0]["metadata"]["name"]

    assert name() == name()
    assert name() != name("image: {tag: 9.1.0}")
    assert name() != name("externalDatabase: {host: other.example.org}")


@pytest.mark.parametrize("mode", ["start", "wait", "off"])
def test_servers_know_how_tables_are_brought_up_to_date(mode):
    manifests = rendered(values=f"migrations: {{mode: '{mode}'}}")
    assert settings_of(manifests, server_of(manifests))["STUDYGOV_MIGRATE"] == mode
    assert not [one for one in of_kind(manifests, "Job") if "migrate" in one["metadata"]["name"]]


# Secrets


def test_no_template_asks_the_cluster_or_uses_random_values():
    for path in (CHART / "templates").rglob("*.*"):
        text = re.sub(r"\{\{-? /\*.*?\*/ -?\}\}", "", path.read_text(), flags=re.S)
        found = re.search(r"\b(lookup|rand[A-Z]\w+|gen(CA|PrivateKey|Signed\w+|SelfSigned\w+)|uuidv4|now|htpasswd|bcrypt|derivePassword)\b", text)
        assert not found, f"{path.name}: {found.group()}"


def keys_made(manifests):
    for one in of_kind(manifests, "Job"):
        arguments = pod_of(one)["spec"]["containers"][0]["args"]
        if "make-secrets" in arguments:
            assert arguments[:2] == ["kubernetes", "make-secrets"]
            return arguments[arguments.index("--name") + 1], arguments[arguments.index("--keys") + 1].split(",")
    return None, []


def test_every_reference_of_a_secret_has_its_secret(example):
    name, keys = keys_made(example)
    there = {(name, key) for key in keys}
    for secret in of_kind(example, "Secret"):
        there |= {(secret["metadata"]["name"], key) for key in secret["stringData"]}
    used = set()
    for one, pod in pods(example):
        for container in containers(pod):
            for variable in container.get("env", []):
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    used.add((reference["name"], reference["key"]))
    ours = {one for one in used if one[0].endswith(("-generated", "-given"))}
    assert ours <= there
    assert ours == there, "a secret is made that nothing uses"


def test_the_generated_secret_has_the_labels_of_the_release():
    job = named(rendered(), "Job", "sg-studygovernor-make-secrets")
    arguments = pod_of(job)["spec"]["containers"][0]["args"]
    assert arguments[6:] == [
        "--label", "app.kubernetes.io/component=make-secrets",
        "--label", "app.kubernetes.io/instance=sg",
        "--label", "app.kubernetes.io/name=studygovernor",
    ]  # fmt: skip


def test_secrets_are_generated_by_default():
    assert keys_made(rendered()) == (
        "sg-studygovernor-generated",
        ["secret_key", "password_salt", "admin_password", "db_password", "broker_password"],
    )


def test_what_is_given_is_not_generated():
    assert keys_made(rendered("external-postgres")) == (None, [])
    assert not of_kind(rendered("external-postgres"), "Role", "RoleBinding", "Secret")
    keys = keys_made(rendered("everything"))[1]
    assert keys == ["password_salt", "broker_password"]
    values = "rabbitmq: {password: {existingSecret: mine, existingSecretKey: word}}"
    assert "broker_password" not in keys_made(rendered(values=values))[1]
    assert settings_of(rendered(values=values), server_of(rendered(values=values)))["STUDYGOV_BROKER_PASSWORD"] == {
        "secretKeyRef": {"name": "mine", "key": "word"}
    }


def test_values_of_secrets_are_in_a_secret_only():
    text = rendered_text("everything")
    manifests = rendered("everything")
    assert text.count("given-in-the-values-as-an-example") == 1
    [secret] = of_kind(manifests, "Secret")
    assert secret["stringData"]["secret_key"] == "given-in-the-values-as-an-example"


def test_workers_know_neither_the_database_nor_secrets_of_the_server(example):
    for worker in workers_of(example):
        names = set(settings_of(example, worker))
        forbidden = {name for name in names if name.startswith(("DB_", "PG", "STUDYGOV_ADMIN"))}
        assert not forbidden | (names & {"SECRET_KEY", "SECURITY_PASSWORD_SALT", "SQLALCHEMY_DATABASE_URI"})
        volumes = {volume["name"] for volume in pod_of(worker)["spec"]["volumes"]}
        assert not volumes & {"data", "database-authority"}


def test_names_of_secrets_may_be_templates():
    values = "secrets: {secretKey: {existingSecret: '{{ .Release.Name }}-mine', existingSecretKey: key}}"
    manifests = rendered(values=values)
    assert settings_of(manifests, server_of(manifests))["SECRET_KEY"]["secretKeyRef"]["name"] == "sg-mine"


# Containers


def test_variables_are_set_once(example):
    for _, pod in pods(example):
        for container in containers(pod):
            names = [one["name"] for one in container.get("env", [])]
            for source in container.get("envFrom", []):
                if "configMapRef" in source:
                    names += named(example, "ConfigMap", source["configMapRef"]["name"])["data"]
            assert len(names) == len(set(names)), sorted(names)


def test_settings_are_texts_and_none_is_empty(example):
    for one in of_kind(example, "ConfigMap"):
        for key, value in one.get("data", {}).items():
            assert isinstance(value, str) and value != "", key


def test_ports_are_named_and_unique(example):
    for _, pod in pods(example):
        ports = [port for container in own_containers(pod) for port in container.get("ports", [])]
        names, numbers = [port["name"] for port in ports], [port["containerPort"] for port in ports]
        assert len(names) == len(set(names)) and len(numbers) == len(set(numbers))


def test_long_running_containers_have_probes_and_others_have_none(example):
    kinds = ("startupProbe", "livenessProbe", "readinessProbe")
    for one, pod in pods(example):
        for container in own_containers(pod):
            found = [kind for kind in kinds if kind in container]
            if one["kind"] not in LONG_RUNNING or container in pod["spec"].get("initContainers", []):
                assert found == [], container["name"]
            elif "-worker-" in one["metadata"]["name"]:
                assert found == ["startupProbe", "livenessProbe"], "nothing sends requests to a worker"
            else:
                assert found == list(kinds), container["name"]


def test_being_alive_does_not_depend_on_the_database(example):
    for one in [server_of(example), *workers_of(example)]:
        container = pod_of(one)["spec"]["containers"][0]
        assert container["livenessProbe"]["httpGet"]["path"].endswith("/-/healthy")
        assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] >= 300


def test_probes_ask_named_ports(example):
    for _, pod in pods(example):
        for container in own_containers(pod):
            ports = {port["name"] for port in container.get("ports", [])}
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                probe = container.get(kind, {})
                for way in ("httpGet", "tcpSocket"):
                    assert way not in probe or probe[way]["port"] in ports


def test_own_containers_say_what_they_need(example):
    for _, pod in pods(example):
        for container in own_containers(pod):
            assert container["resources"]["requests"] and container["resources"]["limits"]["memory"], container["name"]


def test_old_replica_sets_are_few(example):
    for one in of_kind(example, *LONG_RUNNING):
        assert one["spec"]["revisionHistoryLimit"] == 3


def test_a_change_of_settings_restarts_the_pods_that_read_them():
    def sums(values=""):
        manifests = rendered(values=values)
        find = lambda one: pod_of(one)["metadata"]["annotations"]["checksum/settings"]
        return find(server_of(manifests)), find(workers_of(manifests)[0])

    usual = sums()
    both = sums("settings: {STUDYGOV_LOG: debug}")
    server = sums("studygovernor: {gunicorn: {timeout: 31}}")
    secret = sums("secrets: {secretKey: {value: another-one}}")
    assert both[0] != usual[0] and both[1] != usual[1]
    assert server[0] != usual[0] and server[1] == usual[1]
    assert secret[0] != usual[0]


def test_an_upgrade_of_the_chart_alone_restarts_nothing():
    """Versions of the chart are in labels of objects and not of pods."""
    for one in of_kind(rendered(), *LONG_RUNNING):
        pod = pod_of(one)
        assert "helm.sh/chart" not in pod["metadata"]["labels"] and "app.kubernetes.io/version" not in pod["metadata"]["labels"]


# Volumes


def test_volumes_and_mounts_belong_together(example):
    for one, pod in pods(example):
        volumes = [volume["name"] for volume in pod["spec"].get("volumes", [])]
        mounted = {mount["name"] for container in containers(pod) for mount in container.get("volumeMounts", [])}
        assert len(volumes) == len(set(volumes)) and set(volumes) == mounted, one["metadata"]["name"]
        for container in containers(pod):
            paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            assert len(paths) == len(set(paths))


def test_everything_that_is_written_is_in_a_volume(example):
    for one in [server_of(example), *workers_of(example)]:
        settings = settings_of(example, one)
        mounts = [mount["mountPath"] for mount in pod_of(one)["spec"]["containers"][0]["volumeMounts"]]
        paths = [settings[name] for name in ("STUDYGOV_PROJECT_HOME", "STUDYGOV_DATA_DIR", "STUDYGOV_PROJECT_SCRATCH", "HOME")]
        paths += [settings[name] for name in ("DB_SSL_CA",) if name in settings]
        paths += re.findall(r"/etc/\S+", settings.get("GIT_SSH_COMMAND", ""))
        if str(settings.get("DB_SCHEMA")) == "sqlite":
            paths.append(settings["DB_NAME"])
        for path in ["/tmp/x", *paths]:
            assert any(path == mount or path.startswith(mount + "/") for mount in mounts), path


def test_mounted_files_are_used():
    manifests = rendered("everything")
    for one in [server_of(manifests), *workers_of(manifests)]:
        settings = " ".join(str(value) for value in settings_of(manifests, one).values())
        for mount in pod_of(one)["spec"]["containers"][0]["volumeMounts"]:
            if mount["mountPath"] not in ("/tmp", "/more"):
                assert mount["mountPath"].removesuffix("/mails") in settings, mount["mountPath"]


def test_claims_exist_where_the_chart_makes_them(example):
    claims = {one["metadata"]["name"] for one in of_kind(example, "PersistentVolumeClaim")}
    used = {
        volume["persistentVolumeClaim"]["claimName"]
        for _, pod in pods(example)
        for volume in pod["spec"].get("volumes", [])
        if "persistentVolumeClaim" in volume
    }
    assert claims <= used
    assert {name for name in used if name.startswith("sg-studygovernor")} <= claims


def test_claims_survive_an_uninstall_unless_switched():
    keep = lambda manifests: {
        one["metadata"]["name"].rsplit("-", 1)[1]: one["metadata"].get("annotations", {}).get("helm.sh/resource-policy")
        for one in of_kind(manifests, "PersistentVolumeClaim")
    }
    assert keep(rendered()) == {"data": "keep", "postgresql": "keep", "rabbitmq": "keep"}
    off = "{storage: {resourcePolicy: ''}}"
    values = f"postgresql: {off}\nrabbitmq: {off}\nserver: {{persistence: {{resourcePolicy: ''}}}}"
    assert keep(rendered(values=values)) == {"data": None, "postgresql": None, "rabbitmq": None}


def test_a_claim_of_the_user_s_replaces_ours():
    values = """
server: {persistence: {existingClaim: files}}
postgresql: {storage: {existingClaim: tables}}
rabbitmq: {storage: {existingClaim: messages}}
"""
    manifests = rendered(values=values)
    assert of_kind(manifests, "PersistentVolumeClaim") == []
    text = rendered_text(values=values)
    assert all(f"claimName: {name}" in text for name in ("files", "tables", "messages"))


def test_servers_stay_together_where_one_node_holds_their_volume():
    together = lambda values: "podAffinity" in pod_of(server_of(rendered(values=values)))["spec"].get("affinity", {})
    assert together("")
    assert not together("server: {persistence: {accessMode: ReadWriteMany}}")
    assert not together("server: {persistence: {enabled: false}}")
    # Another affinity does not replace the rule, and is kept.
    values = "global: {affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{}]}}}}"
    affinity = pod_of(server_of(rendered(values=values)))["spec"]["affinity"]
    assert set(affinity) == {"nodeAffinity", "podAffinity"}
    [worker] = workers_of(rendered(values=values))
    assert set(pod_of(worker)["spec"]["affinity"]) == {"nodeAffinity"}


# References


def test_services_have_pods_with_their_ports(example):
    for service in of_kind(example, "Service"):
        selector = service["spec"]["selector"]
        chosen = [pod for one, pod in pods(example) if selector.items() <= pod["metadata"]["labels"].items()]
        assert len(chosen) == 1, service["metadata"]["name"]
        ports = {port["name"] for port in chosen[0]["spec"]["containers"][0]["ports"]}
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports


def test_every_service_that_is_named_exists(example):
    services = {one["metadata"]["name"]: {port["port"] for port in one["spec"]["ports"]} for one in of_kind(example, "Service")}
    for ingress in of_kind(example, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                assert path["backend"]["service"]["name"] in services
    for route in of_kind(example, "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                assert backend["port"] in services[backend["name"]]
    for one in of_kind(example, "StatefulSet"):
        assert one["spec"]["serviceName"] in services
    for one in [server_of(example), *workers_of(example)]:
        settings = settings_of(example, one)
        for name in ("DB_HOST", "STUDYGOV_BROKER_HOST"):
            host = settings.get(name, "elsewhere.example.org")
            assert host.endswith(".example.org") or host in services
    urls = re.findall(r"http://([a-z0-9-]+)\.studies\.svc:(\d+)", yaml.safe_dump_all(example))
    for name, port in urls:
        assert int(port) in services[name]


def test_service_accounts_and_config_maps_exist(example):
    accounts = {one["metadata"]["name"] for one in of_kind(example, "ServiceAccount")}
    maps = {one["metadata"]["name"] for one in of_kind(example, "ConfigMap")}
    for _, pod in pods(example):
        assert pod["spec"]["serviceAccountName"] in accounts
        for volume in pod["spec"].get("volumes", []):
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps


def test_autoscalers_name_what_they_scale_and_own_its_replicas(example):
    for one in of_kind(example, "HorizontalPodAutoscaler", "ScaledObject"):
        target = named(example, "Deployment", one["spec"]["scaleTargetRef"]["name"])
        assert "replicas" not in target["spec"]
    scaled = {one["spec"]["scaleTargetRef"]["name"] for one in of_kind(example, "HorizontalPodAutoscaler", "ScaledObject")}
    for one in of_kind(example, "Deployment"):
        assert ("replicas" in one["spec"]) == (one["metadata"]["name"] not in scaled)


def test_budgets_leave_room_for_a_drain(example):
    for one in of_kind(example, "PodDisruptionBudget"):
        assert one["spec"]["maxUnavailable"] == 1
        selector = one["spec"]["selector"]["matchLabels"]
        assert [pod for _, pod in pods(example) if selector.items() <= pod["metadata"]["labels"].items()]


def test_budgets_are_only_where_there_are_several():
    budgets = lambda manifests: {one["metadata"]["name"] for one in of_kind(manifests, "PodDisruptionBudget")}
    many = "server: {persistence: {accessMode: ReadWriteMany}"
    assert budgets(rendered()) == set(), "servers on one node are drained together"
    assert budgets(rendered(values=many + "}")) == {"sg-studygovernor-server"}
    assert budgets(rendered(values=many + ", replicas: 1}")) == set()
    assert budgets(rendered(values=many + ", pdb: {enabled: false}}")) == set()
    assert budgets(rendered("everything")) == {f"sg-studygovernor-{one}" for one in ("server", "worker-default", "worker-gpu")}


def test_spread_selects_the_pods_themselves():
    for one in [server_of(rendered("everything")), *workers_of(rendered("everything"))]:
        [rule] = pod_of(one)["spec"]["topologySpreadConstraints"]
        assert rule["labelSelector"]["matchLabels"] == one["spec"]["selector"]["matchLabels"]
        assert rule["matchLabelKeys"] == ["pod-template-hash"]
        assert rule["topologyKey"] == "topology.kubernetes.io/zone"


# Disabled features leave no objects


def test_nothing_is_rendered_of_what_is_off():
    values = """
postgresql: {enabled: false}
rabbitmq: {enabled: false}
studygovernor: {db: {schema: sqlite}, admin: {username: ""}}
secrets: {init: {enabled: false}, secretKey: {existingSecret: a, existingSecretKey: b}, passwordSalt: {existingSecret: a, existingSecretKey: c}}
server: {replicas: 1, persistence: {existingClaim: files}}
ingress: {enabled: false}
serviceAccount: {create: false}
"""
    kinds = sorted(one["kind"] for one in rendered(values=values))
    assert kinds == ["ConfigMap", "Deployment", "Pod", "Service", "Service"]


@pytest.mark.parametrize("name", sorted(set(CI) - {"everything", "gateway", "workers"}))
def test_no_object_of_an_operator_without_being_asked_for(name):
    assert not OPTIONAL & {one["kind"] for one in rendered(name)}


def test_what_the_user_adds_must_be_yaml():
    code, _, err = helm("template", "sg", str(CHART), "-f", "-", stdin="extraObjects: ['a: [']")
    assert code != 0 and "YAML" in err


def test_what_the_user_adds_is_there():
    maps = {one["metadata"]["name"] for one in of_kind(rendered("everything"), "ConfigMap")}
    assert {"sg-more", "sg-studygovernor-more"} <= maps


# The product


@pytest.mark.parametrize(
    ("name", "prefix"), [("minimal", "/studygovernor"), ("gateway", "/studies/one"), ("prefix", "")]
)
def test_the_prefix_is_the_ingress_s(name, prefix):
    manifests = rendered(name)
    settings = settings_of(manifests, server_of(manifests))
    assert settings.get("SCRIPT_NAME", "") == settings.get("APPLICATION_ROOT", "") == prefix
    container = pod_of(server_of(manifests))["spec"]["containers"][0]
    assert container["readinessProbe"]["httpGet"]["path"] == f"{prefix}/-/ready"
    for ingress in of_kind(manifests, "Ingress"):
        assert ingress["spec"]["rules"][0]["http"]["paths"][0]["path"] == (prefix or "/")
    for route in of_kind(manifests, "HTTPRoute"):
        assert route["spec"]["rules"][0]["matches"][0]["path"]["value"] == (prefix or "/")
    port = named(manifests, "Service", server_of(manifests)["metadata"]["name"].removesuffix("-server"))["spec"]["ports"][0]["port"]
    for worker in workers_of(manifests):
        assert settings_of(manifests, worker)["STUDYGOV_SERVER"].endswith(f":{port}{prefix}")


@pytest.mark.parametrize("given", ["studies/one", "/studies/one", "/studies/one/"])
def test_slashes_of_the_prefix_do_not_matter(given):
    manifests = rendered(values=f"ingress: {{pathPrefix: {given}}}")
    assert settings_of(manifests, server_of(manifests))["SCRIPT_NAME"] == "/studies/one"


def test_localhost_is_any_host_and_another_one_is_that_one():
    rule = lambda manifests: of_kind(manifests, "Ingress")[0]["spec"]["rules"][0].get("host")
    assert rule(rendered()) is None
    assert rule(rendered("ingress")) == "study.example.org"
    assert of_kind(rendered("gateway"), "HTTPRoute")[0]["spec"]["hostnames"] == ["study.example.org"]
    assert rule(rendered(values="ingress: {host: other.example.org}")) == "other.example.org"


def test_the_external_port_is_the_service_s_unless_https_has_its_own():
    port = lambda values: settings_of(rendered(values=values), server_of(rendered(values=values)))["STUDYGOV_EXTERNAL_PORT"]
    assert port("") == "80"
    assert port("service: {port: 8080}") == "8080"
    assert port("studygovernor: {externalPort: 9000}") == "9000"
    assert port("studygovernor: {externalProtocol: https}") == "443"
    assert port("{studygovernor: {externalProtocol: https}, service: {port: 8443}}") == "8443"


def test_proxies_are_named_or_the_program_s_default():
    proxies = lambda manifests: settings_of(manifests, server_of(manifests)).get("STUDYGOV_TRUSTED_PROXIES")
    assert proxies(rendered()) is None
    assert proxies(rendered("everything")) == "10.42.0.0/16,fd00::/8"


def test_a_worker_gets_a_minute_more_than_its_callbacks():
    workers = {one["metadata"]["name"].rsplit("-", 1)[1]: one for one in workers_of(rendered("workers"))}
    for group, seconds in (("default", 3600), ("gpu", 8 * 3600), ("quick", 90)):
        spec = pod_of(workers[group])["spec"]
        assert spec["terminationGracePeriodSeconds"] == seconds + 60
        assert settings_of(rendered("workers"), workers[group])["STUDYGOV_WORKER_GRACE"] == str(seconds)


def test_groups_take_what_they_do_not_set_from_the_defaults():
    values = """
workerDefaults: {concurrency: 7, pdb: {enabled: true}, podLabels: {a: b}}
workers: {default: {replicas: 3}, small: {concurrency: 1, queues: [one, two], pdb: {enabled: false}}, gone: null}
"""
    manifests = rendered(values=values)
    workers = {one["metadata"]["name"].rsplit("-", 1)[1]: one for one in workers_of(manifests)}
    assert set(workers) == {"default", "small"}
    assert settings_of(manifests, workers["default"])["STUDYGOV_WORKER_CONCURRENCY"] == "7"
    assert settings_of(manifests, workers["small"])["STUDYGOV_WORKER_CONCURRENCY"] == "1"
    assert settings_of(manifests, workers["small"])["STUDYGOV_QUEUES"] == "one,two"
    assert pod_of(workers["small"])["metadata"]["labels"]["a"] == "b"
    assert workers["small"]["spec"]["replicas"] == 1 and workers["default"]["spec"]["replicas"] == 3
    assert [one for one in workers_of(rendered(values="workers: {default: null}"))] == []


def test_an_image_of_a_group_replaces_what_it_names():
    image = lambda group: pod_of(group)["spec"]["containers"][0]["image"]
    values = "image: {registry: host, digest: 'sha256:" + "b" * 64 + "'}\nworkers: {default: {image: {tag: big}}}"
    assert image(workers_of(rendered(values=values))[0]) == "host/studygovernor:big"


def test_groups_are_scaled_by_queued_and_running_callbacks():
    [one] = of_kind(rendered("workers"), "ScaledObject")
    spec = one["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (0, 4)
    urls = [trigger["metadata"]["url"] for trigger in spec["triggers"]]
    base = "http://sg-studygovernor-metrics.studies.svc:9090/-/queues?queue="
    assert urls == [f"{base}gpu&concurrency=1", f"{base}segmentation&concurrency=1"]
    assert {trigger["type"] for trigger in spec["triggers"]} == {"metrics-api"}
    assert {trigger["metadata"]["valueLocation"] for trigger in spec["triggers"]} == {"wanted"}
    assert spec["advanced"]["scalingModifiers"]["formula"] == "q0 + q1"
    assert spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 900


def test_sqlite_is_one_server_that_is_replaced_as_a_whole():
    manifests = rendered("sqlite-single")
    server = server_of(manifests)
    assert server["spec"]["replicas"] == 1 and server["spec"]["strategy"] == {"type": "Recreate"}
    settings = settings_of(manifests, server)
    # One slash before an absolute path: the program adds another one.
    assert settings["DB_SCHEMA"] == "sqlite" and settings["DB_NAME"] == "/var/lib/studygovernor/database/studygovernor.db"
    assert settings["STUDYGOV_CALLBACK_METHOD"] == "local" and workers_of(manifests) == []


def test_what_the_broker_writes_is_in_volumes_and_its_cookie_in_none_that_is_kept():
    """Tested with RabbitMQ under these restrictions: it writes to /var/log/rabbitmq even though it logs to the console."""
    [container] = pod_of(named(rendered(), "StatefulSet", "sg-studygovernor-rabbitmq"))["spec"]["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts["/var/log/rabbitmq"] == "log" and mounts["/tmp"] == "tmp"
    assert (mounts["/var/lib/rabbitmq"], mounts["/var/lib/rabbitmq/mnesia"]) == ("home", "data")
    environment = {one["name"]: one.get("value") for one in container["env"]}
    assert (environment["HOME"], environment["RABBITMQ_MNESIA_BASE"]) == ("/var/lib/rabbitmq", "/var/lib/rabbitmq/mnesia")


@pytest.mark.parametrize(("found", "refused"), [(None, False), ("17", False), ("16", True), ("9.6", True), ("18", True)])
def test_postgresql_refuses_the_data_of_another_major_version(found, refused, tmp_path):
    """Its init container, run here with a PostgreSQL that only prints its version."""
    [init] = pod_of(named(rendered(), "StatefulSet", "sg-studygovernor-postgresql"))["spec"]["initContainers"]
    data, message = tmp_path / "data", tmp_path / "termination-log"
    data.mkdir()
    if found:
        (data / "PG_VERSION").write_text(f"{found}\n")
    program = tmp_path / "postgres"
    program.write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 17.2 (Debian 17.2-1.pgdg120+1)'\n")
    program.chmod(0o755)
    script = init["command"][2].replace("/dev/termination-log", str(message))
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PGDATA": str(data)}
    done = subprocess.run([*init["command"][:2], script], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == refused, done.stderr
    if refused:
        assert f'has the data of PostgreSQL {found} and the image is PostgreSQL 17: set postgresql.image.tag to "{found}"' in done.stdout
        assert message.read_text() == done.stdout
        title = re.search("'(Another [^']*)' in the chart's UPGRADING.md", done.stdout).group(1)
        assert f"## {title}\n" in (CHART / "UPGRADING.md").read_text()


def test_network_policies_allow_what_the_parts_need():
    manifests = rendered("everything")
    policies = {one["metadata"]["name"].removeprefix("sg-studygovernor-"): one["spec"] for one in of_kind(manifests, "NetworkPolicy")}
    assert set(policies) == {"server", "metrics", "worker", "postgresql", "rabbitmq"}
    clients = lambda name: policies[name]["ingress"][0]["from"][-1]["podSelector"]["matchExpressions"][0]["values"]
    assert clients("postgresql") == ["server", "migrate"]
    assert clients("rabbitmq") == ["server", "worker-default", "worker-gpu"]
    for spec in policies.values():
        chosen = spec["podSelector"]["matchExpressions"][0]["values"]
        found = [pod for _, pod in pods(manifests) if pod["metadata"]["labels"].get("app.kubernetes.io/component") in chosen]
        assert len(found) == len(chosen)
        for pod in found:
            assert spec["ingress"][0]["ports"][0]["port"] in {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
    assert of_kind(rendered(), "NetworkPolicy") == []


def test_monitors_ask_the_metrics_of_servers_and_workers():
    manifests = rendered("everything")
    [monitor], [pods_] = of_kind(manifests, "ServiceMonitor"), of_kind(manifests, "PodMonitor")
    assert monitor["spec"]["endpoints"][0] == {"port": "metrics", "path": "/-/metrics", "interval": "30s"}
    assert pods_["spec"]["podMetricsEndpoints"][0]["path"] == "/-/metrics"
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_metrics_cannot_be_asked_from_outside_of_the_cluster(example):
    """Metrics have a separate port, whose Service is only reachable in the cluster, without any Ingress or route."""
    server = server_of(example)
    assert settings_of(example, server)["STUDYGOV_METRICS_LISTEN"] == ":9090"
    ports = {port["name"]: port["containerPort"] for port in pod_of(server)["spec"]["containers"][0]["ports"]}
    assert ports["metrics"] == 9090 != ports["http"]
    fullname = server["metadata"]["name"].removesuffix("-server")
    for service in of_kind(example, "Service"):
        offered = {port["name"] for port in service["spec"]["ports"]}
        if service["metadata"]["name"] == f"{fullname}-metrics":
            assert offered == {"metrics"} and service["spec"]["type"] == "ClusterIP"
        elif "metrics" in offered:
            assert service["spec"]["selector"] != pod_of(server)["metadata"]["labels"]
        elif service["metadata"]["name"] == fullname:
            assert offered == {"http"}
    for one in of_kind(example, "Ingress"):
        backends = [path["backend"]["service"] for rule in one["spec"]["rules"] for path in rule["http"]["paths"]]
        assert backends == [{"name": fullname, "port": {"name": "http"}}]
    for one in of_kind(example, "HTTPRoute"):
        assert [backend["name"] for rule in one["spec"]["rules"] for backend in rule["backendRefs"]] == [fullname]


@pytest.mark.parametrize(
    ("values", "trusted"),
    [
        ("ingress: {enabled: false}", "none"),
        ("ingress: {enabled: false}\nservice: {type: LoadBalancer}", "none"),
        ("ingress: {enabled: true}", None),
        ("ingress: {enabled: false}\ngateway: {enabled: true, parentRefs: [{name: a}]}", None),
        ("ingress: {enabled: false}\nstudygovernor: {trustedProxies: [10.1.0.0/16, fd00::1]}", "10.1.0.0/16,fd00::1"),
    ],
)
def test_nobody_is_a_trusted_proxy_where_there_is_no_proxy(values, trusted):
    manifests = rendered(values=values)
    assert settings_of(manifests, server_of(manifests)).get("STUDYGOV_TRUSTED_PROXIES") == trusted


def test_the_test_of_helm_asks_the_program():
    [pod] = of_kind(rendered(), "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["spec"]["containers"][0]["args"] == ["health", "--url", "http://sg-studygovernor.studies.svc:80/studygovernor"]


def test_a_stopped_server_goes_on_until_load_balancers_have_noticed():
    spec = pod_of(server_of(rendered()))["spec"]
    assert spec["containers"][0]["lifecycle"]["preStop"] == {"sleep": {"seconds": 5}}
    assert spec["terminationGracePeriodSeconds"] == 65
    assert "lifecycle" not in pod_of(server_of(rendered(values="server: {preStopSeconds: 0}")))["spec"]["containers"][0]


def test_refusals_begin_with_the_sentence():
    assert refusal("gateway: {enabled: true}").split("\n\n")[1].startswith("ingress.enabled and gateway.enabled")
