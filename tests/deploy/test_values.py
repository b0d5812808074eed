"""Invalid values are refused with a sentence that names them."""

import pytest
import yaml
from conftest import CHART, of_kind, pods, refusal, rendered, server_of, settings_of, workers_of

WRONG = [
    # (example, values, part of the sentence)
    ("minimal", "gateway: {enabled: true, parentRefs: [{name: x}]}", "ingress.enabled and gateway.enabled are both true"),
    ("minimal", "{ingress: {enabled: false}, gateway: {enabled: true}}", "gateway.parentRefs is empty"),
    ("minimal", "ingress: {tls: [{secretName: x}]}", "set studygovernor.externalProtocol=https"),
    ("minimal", "service: {nodePort: 30080}", "set service.type=NodePort"),
    # database
    ("minimal", "externalDatabase: {host: db}", "set postgresql.enabled=false"),
    ("minimal", "studygovernor: {db: {host: db}}", "set postgresql.enabled=false"),
    ("minimal", "externalDatabase: {uri: {value: 'postgresql://u:p@h/n'}}", "set postgresql.enabled=false"),
    ("minimal", "studygovernor: {db: {schema: mysql}}", "studygovernor.db.schema is mysql and postgresql.enabled is true"),
    ("minimal", "postgresql: {enabled: false}", "no other database is set"),
    ("external-postgres", "studygovernor: {db: {host: other}}", "studygovernor.db.host is other: set one of them"),
    ("external-postgres", "externalDatabase: {uri: {value: x}}", "externalDatabase.uri is set beside"),
    ("external-postgres", "studygovernor: {db: {schema: sqlite}}", "SQLite has no host"),
    ("external-postgres", "externalDatabase: {tls: {caSecret: ''}}", "externalDatabase.tls.caSecret is empty"),
    ("minimal", "externalDatabase: {tls: {mode: require}}", "externalDatabase.tls is for an external PostgreSQL or MariaDB only"),
    ("sqlite-single", "externalDatabase: {tls: {caSecret: x}}", "externalDatabase.tls is for an external PostgreSQL or MariaDB only"),
    ("external-mariadb", "externalDatabase: {tls: {caSecret: ''}}", "externalDatabase.tls.caSecret is empty"),
    ("external-postgres", "externalDatabase: {password: {existingSecret: '', existingSecretKey: ''}}", "externalDatabase.password.value is missing"),
    ("sqlite-single", "server: {replicas: 2}", "SQLite is for one server"),
    ("sqlite-single", "server: {autoscaling: {enabled: true}}", "SQLite is for one server"),
    ("sqlite-single", "server: {persistence: {enabled: false}}", "the study would be lost with its pod"),
    ("sqlite-single", "migrations: {mode: job}", "set migrations.mode=start"),
    # broker and workers
    ("minimal", "externalBroker: {host: mq}", "set rabbitmq.enabled=false"),
    ("external-mariadb", "externalBroker: {host: mq}", "externalBroker.host and externalBroker.url are both set"),
    ("minimal", "{rabbitmq: {enabled: false}, studygovernor: {callbacks: {method: celery}}}", "method is celery and there is no broker"),
    ("minimal", "studygovernor: {callbacks: {method: local}}", "the broker would have no use: set rabbitmq.enabled=false"),
    ("sqlite-single", "workers: {gpu: {}}", "workers.gpu needs a broker"),
    ("minimal", "workers: {gpu: {keda: {enabled: true, min: 11}}}", "workers.gpu.keda.min is larger"),
    ("minimal", "server: {autoscaling: {enabled: true, minReplicas: 9}}", "minReplicas is larger"),
    ("minimal", "workers: {gpu: {extraEnv: [{name: STUDYGOV_WORKER_CONCURRENCY, value: '1'}]}}", "use workers.gpu.concurrency"),
    ("minimal", "workers: {gpu: {extraEnv: [{name: STUDYGOV_QUEUES, value: x}]}}", "workers.gpu.extraEnv sets STUDYGOV_QUEUES"),
    # unused secrets
    ("minimal", "externalDatabase: {password: {value: x}}", "externalDatabase.password is set and nothing uses it: externalDatabase is not in use"),
    ("external-postgres", "postgresql: {password: {value: x}}", "postgresql.password is set and nothing uses it: postgresql.enabled is false"),
    ("minimal", "externalBroker: {password: {value: x}}", "externalBroker.password is set and nothing uses it"),
    ("external-mariadb", "rabbitmq: {password: {existingSecret: x}}", "rabbitmq.password is set and nothing uses it"),
    ("minimal", "studygovernor: {admin: {username: '', password: x}}", "studygovernor.admin.username is empty"),
    # repository
    ("minimal", "studygovernor: {project: {git: {enabled: true}}}", "studygovernor.project.git.url is empty"),
    ("minimal", "studygovernor: {project: {git: {url: 'https://h/x'}}}", "studygovernor.project.git.enabled is false"),
    ("minimal", "studygovernor: {project: {git: {password: {value: x}}}}", "studygovernor.project.git.enabled is false"),
    ("minimal", "externalBroker: {tls: true}", "externalBroker.tls belongs to externalBroker.host"),
    ("minimal", "studygovernor: {project: {git: {enabled: true, url: 'https://u:t@h/x'}}}", "has a login in it"),
    ("minimal", "studygovernor: {project: {git: {enabled: true, url: 'git@h:x'}}}", "name the Secret with the private key"),
    ("minimal", "studygovernor: {project: {git: {enabled: true, url: 'ssh://git@h/x'}}}", "name the Secret with the private key"),
    ("everything", "studygovernor: {project: {git: {ssh: {knownHosts: ''}}}}", "ssh-keyscan"),
    ("everything", "studygovernor: {project: {git: {existingSecret: a, existingSecretKey: b}}}", "studygovernor.project.git.url and"),
    # mail
    ("ingress", "mail: {useSSL: true}", "mail.useTLS and mail.useSSL are both true"),
    ("minimal", "mail: {username: x, password: {value: word}}", "mail.server is empty"),
    ("minimal", "mail: {server: x, password: {value: word}}", "mail.username is empty"),
    ("minimal", "mail: {server: x, username: user}", "mail.password.value is missing"),
    # variables
    ("minimal", "settings: {DB_HOST: x}", "settings.DB_HOST: use studygovernor.db.host"),
    ("minimal", "settings: {SECRET_KEY_FILE: /x}", "settings.SECRET_KEY_FILE: use secrets.secretKey"),
    ("minimal", "settings: {XNAT_PASSWORD: x}", "looks like a secret"),
    ("minimal", "extraEnv: [{name: STUDYGOV_PORT, value: '1'}]", "extraEnv sets STUDYGOV_PORT, which the chart sets: use studygovernor.port"),
    ("minimal", "server: {extraEnv: [{name: DB_PASSWORD, value: x}]}", "extraEnv sets DB_PASSWORD"),
    ("minimal", "extraEnv: [{name: STUDYGOV_WORKER_CONCURRENCY, value: '1'}]", "use workers.<group>.concurrency"),
    # by the schema
    ("minimal", "nonsense: 1", "Additional property nonsense is not allowed"),
    ("minimal", "server: {replica: 1}", "server: Additional property replica is not allowed"),
    ("minimal", "studygovernor: {port: http}", "studygovernor.port: Invalid type. Expected: integer, given: string"),
    ("minimal", "studygovernor: {port: 80}", "studygovernor.port: Must be greater than or equal to 1024"),
    ("minimal", "studygovernor: {db: {schema: oracle}}", "studygovernor.db.schema: Does not match pattern"),
    ("minimal", "studygovernor: {externalProtocol: ftp}", "studygovernor.externalProtocol"),
    ("minimal", "studygovernor: {externalHostname: 'https://x/'}", "studygovernor.externalHostname: Does not match pattern"),
    ("minimal", "studygovernor: {callbacks: {method: redis}}", "studygovernor.callbacks.method"),
    ("minimal", "studygovernor: {project: {git: {sync: hourly}}}", "studygovernor.project.git.sync"),
    ("minimal", "studygovernor: {security: {registerable: 'no way'}}", "Expected: boolean"),
    ("minimal", "ingress: {pathPrefix: '/a b'}", "ingress.pathPrefix: Does not match pattern"),
    ("minimal", "migrations: {mode: never}", "migrations.mode must be one of the following"),
    ("minimal", "image: {digest: latest}", "image.digest: Does not match pattern"),
    ("minimal", "workers: {Big: {}}", 'Property name of "Big" does not match'),
    ("minimal", "workers: {fifteen-letters: {}}", "does not match"),
    ("minimal", "workers: {gpu: {queues: ['a b']}}", "workers.gpu.queues.0: Does not match pattern"),
    ("minimal", "workers: {gpu: {grace: soon}}", "workers.gpu.grace"),
    ("minimal", "workers: {gpu: {concurrency: 0}}", "workers.gpu.concurrency: Must be greater than or equal to 1"),
    ("minimal", "server: {persistence: {size: much}}", "server.persistence.size: Does not match pattern"),
    ("minimal", "extraEnv: [{value: x}]", "name is required"),
    ("minimal", "settings: {A: [1]}", "settings.A: Invalid type"),
]


@pytest.mark.parametrize(("name", "values", "sentence"), WRONG, ids=[f"{one[0]}: {one[1]}" for one in WRONG])
def test_wrong_values_are_refused_with_a_sentence(name, values, sentence):
    assert sentence in refusal(values, name)


def test_a_group_in_the_wrong_place_is_named():
    groups = ["callbacks", "gunicorn", "db", "admin", "project", "fastr", "security"]
    message = refusal("".join(f"{group}: {{a: b}}\n" for group in groups))
    assert [group for group in groups if f"write studygovernor.{group}." in message] == groups


def test_all_that_is_wrong_is_said_at_once():
    message = refusal("{gateway: {enabled: true}, mail: {useTLS: true, useSSL: true}, settings: {DB_HOST: x}}")
    for part in ("are both true", "gateway.parentRefs", "mail.useTLS", "settings.DB_HOST"):
        assert part in message


# Every credential takes a value or a Secret: (example, path to the object, path of its value, whether it is generated)
CREDENTIALS = [
    ("minimal", "secrets.secretKey", "secrets.secretKey.value", True),
    ("minimal", "secrets.passwordSalt", "secrets.passwordSalt.value", True),
    ("minimal", "postgresql.password", "postgresql.password.value", True),
    ("minimal", "rabbitmq.password", "rabbitmq.password.value", True),
    ("minimal", "studygovernor.admin", "studygovernor.admin.password", True),
    ("external-postgres", "externalDatabase.password", "externalDatabase.password.value", False),
    ("external-postgres", "externalBroker.password", "externalBroker.password.value", False),
    ("external-mariadb", "externalBroker.url", "externalBroker.url.value", False),
    ("ingress", "mail.password", "mail.password.value", False),
    ("git", "studygovernor.project.git.password", "studygovernor.project.git.password.value", False),
]


def nested(entries):
    """`a.b: c` as an object."""
    values = {}
    for path, value in entries.items():
        *parents, last = path.split(".")
        inner = values
        for part in parents:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return yaml.safe_dump(values)


@pytest.mark.parametrize(("name", "at", "value", "generated"), CREDENTIALS, ids=[one[1] for one in CREDENTIALS])
def test_a_credential_is_given_in_one_way(name, at, value, generated):
    secret, key = f"{at}.existingSecret", f"{at}.existingSecretKey"
    if name == "git":
        # Optional, so that nothing is missing without it.
        values = {"studygovernor.project.git.enabled": True, "studygovernor.project.git.url": "https://h/x"}
        assert f"{value} and {secret} are both set" in refusal(nested({**values, value: "x", secret: "s", key: "k"}))
        manifests = rendered(values=nested({**values, secret: "theirs", key: "k"}))
        for one in [server_of(manifests), *workers_of(manifests)]:
            assert settings_of(manifests, one)["PROJECT_PASSWORD"] == {"secretKeyRef": {"name": "theirs", "key": "k"}}
        return
    assert f"{value} and {secret} are both set" in refusal(nested({value: "x", secret: "s", key: "k"}), name)
    assert f"{secret} is set and {key} is empty" in refusal(nested({secret: "s", key: ""}), name)
    assert f"{key} is set and {secret} is empty" in refusal(nested({value: "", secret: "", key: "k"}), name)
    nothing = {value: "", secret: "", key: ""}
    if generated:
        assert rendered(name, nested(nothing))
        missing = refusal(nested({**nothing, "secrets.init.enabled": False}), name)
        assert f"secrets.init.enabled is false and {value} is missing" in missing
    elif at != "externalBroker.url":
        assert f"{value} is missing" in refusal(nested(nothing), name)
    text = yaml.safe_dump_all(rendered(name, nested({value: "", secret: "theirs", key: "their-key"})))
    assert "key: their-key\n" in text and "name: theirs\n" in text
    given = rendered(name, nested({value: "in-the-values", secret: "", key: ""}))
    assert "in-the-values" in of_kind(given, "Secret")[0]["stringData"].values()


def test_the_repository_s_address_may_be_a_secret():
    values = "studygovernor: {project: {git: {enabled: true, existingSecret: git, existingSecretKey: url}}}"
    manifests = rendered(values=values)
    for one in [server_of(manifests), *workers_of(manifests)]:
        assert settings_of(manifests, one)["PROJECT_REPO"] == {"secretKeyRef": {"name": "git", "key": "url"}}


def test_the_table_of_the_product_s_documentation():
    """Each documented value is passed in its own variable; emailFrom and emailTo are not part of emailPrefix."""
    values = """
postgresql: {enabled: false}
externalDatabase: {password: {value: x}}
service: {port: 8080}
ingress: {pathPrefix: /p}
studygovernor:
  port: 9001
  instanceName: I
  projectName: P
  emailPrefix: "[x]"
  emailFrom: from@example.org
  emailTo: to@example.org
  callbacks: {method: celery}
  externalHostname: h.example.org
  externalProtocol: https
  externalPort: 8443
  gunicorn: {workerClass: gevent, workerConnections: 7, timeout: 8}
  db: {schema: "mysql+pymysql", name: study, user: U, host: H, port: 3307}
  admin: {username: A, email: a@example.org, password: a password, force_update: true}
  project: {git: {enabled: true, url: "https://git.example.org/x", branch: b, relativePath: r}}
  fastr: {xnatProject: X, projectHome: /home/x, projectScratch: /scratch/x}
  security: {registerable: false, changeable: false, recoverable: false, confirmable: false}
"""
    manifests = rendered(values=values)
    found = settings_of(manifests, server_of(manifests))
    wanted = {
        "STUDYGOV_PORT": "9001",
        "STUDYGOV_INSTANCE_NAME": "I",
        "STUDYGOV_PROJECT_NAME": "P",
        "STUDYGOV_EMAIL_PREFIX": "[x]",
        "STUDYGOV_EMAIL_FROM": "from@example.org",
        "STUDYGOV_EMAIL_TO": "to@example.org",
        "STUDYGOV_CALLBACK_METHOD": "celery",
        "STUDYGOV_EXTERNAL_HOSTNAME": "h.example.org",
        "STUDYGOV_EXTERNAL_PROTO": "https",
        "STUDYGOV_EXTERNAL_PORT": "8443",
        "GUNICORN_WORKER_CLASS": "gevent",
        "GUNICORN_WORKER_CONNECTIONS": "7",
        "GUNICORN_TIMEOUT": "8",
        "DB_SCHEMA": "mysql+pymysql",
        "DB_NAME": "study",
        "DB_USER": "U",
        "DB_HOST": "H",
        "DB_PORT": "3307",
        "STUDYGOV_ADMIN_USERNAME": "A",
        "STUDYGOV_ADMIN_EMAIL": "a@example.org",
        "STUDYGOV_ADMIN_FORCE_UPDATE": "true",
        "PROJECT_REPO": "https://git.example.org/x",
        "PROJECT_BRANCH": "b",
        "PROJECT_RELATIVE_PATH": "r",
        "STUDYGOV_XNAT_PROJECT": "X",
        "STUDYGOV_PROJECT_HOME": "/home/x",
        "STUDYGOV_PROJECT_SCRATCH": "/scratch/x",
        "SECURITY_REGISTERABLE": "false",
        "SECURITY_CHANGEABLE": "false",
        "SECURITY_RECOVERABLE": "false",
        "SECURITY_CONFIRMABLE": "false",
        "SCRIPT_NAME": "/p",
        "APPLICATION_ROOT": "/p",
    }
    assert {name: found.get(name) for name in wanted} == wanted
    assert pods(manifests)
    [service] = [one for one in of_kind(manifests, "Service") if one["spec"]["ports"][0]["name"] == "http"]
    assert service["spec"]["ports"] == [{"name": "http", "port": 8080, "targetPort": "http"}]
    [container] = [c for one, pod in pods(manifests) if one is server_of(manifests) for c in pod["spec"]["containers"]]
    assert container["ports"] == [{"name": "http", "containerPort": 9001}, {"name": "metrics", "containerPort": 9090}]


def test_a_broker_with_tls():
    manifests = rendered("external-postgres")
    for one in [server_of(manifests), *workers_of(manifests)]:
        found = settings_of(manifests, one)
        assert found["STUDYGOV_BROKER_TLS"] == "true" and "STUDYGOV_BROKER_PORT" not in found
    assert "STUDYGOV_BROKER_TLS" not in settings_of(rendered(), server_of(rendered()))


def test_large_numbers_stay_numbers():
    manifests = rendered(values="settings: {STUDYGOV_UPLOAD_LIMIT: 4294967296, STUDYGOV_RATE: 0.5}")
    found = settings_of(manifests, server_of(manifests))
    assert found["STUDYGOV_UPLOAD_LIMIT"] == "4294967296" and found["STUDYGOV_RATE"] == "0.5"


def test_defaults_are_documented_defaults():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    product = values["studygovernor"]
    assert (product["port"], product["externalHostname"], product["externalProtocol"]) == (8000, "localhost", "http")
    assert values["ingress"]["pathPrefix"] == "/studygovernor" and values["ingress"]["enabled"] is True
    assert (product["admin"]["username"], product["security"]) == (
        "admin",
        {"registerable": True, "changeable": True, "recoverable": True, "confirmable": True},
    )
