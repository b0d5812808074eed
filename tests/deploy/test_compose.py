"""The compose file: valid with each profile, complete, and with secrets only where they belong."""

import os
import re
import subprocess

import pytest
import yaml
from conftest import ROOT, ignored_names, program_settings

DOCKER = ROOT / ".docker"
COMPOSE = ROOT / "target" / "deploy-tools" / "docker" / "cli-plugins" / "docker-compose"
PROFILES = ("proxy", "mail", "example")


def config(*arguments, **environment):
    """The configuration that compose reads, in an environment without settings."""
    clean = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    command = [COMPOSE, "-f", DOCKER / "docker-compose.yml", "--project-directory", DOCKER, *arguments, "config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean | environment)
    assert done.returncode == 0, done.stderr
    assert "variable is not set" not in done.stderr, done.stderr
    return yaml.safe_load(done.stdout)["services"]


@pytest.fixture(scope="module")
def services():
    return config(*(part for profile in PROFILES for part in ("--profile", profile)))


def seconds(text):
    return sum(int(number) * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in re.findall(r"(\d+)([hms])", text))


@pytest.mark.parametrize("profile", PROFILES)
def test_each_profile_adds_its_service(profile):
    plain = set(config())
    assert plain == {"secrets", "db", "broker", "server", "worker"}
    assert set(config("--profile", profile)) == plain | {profile}


def test_mariadb_takes_the_place_of_postgresql():
    services = config("--env-file", DOCKER / "mariadb.env")
    assert services["db"]["image"].startswith("mariadb:")
    assert services["server"]["environment"]["DB_SCHEMA"] == "mysql+pymysql"
    assert services["server"]["environment"]["DB_PORT"] == "3306"


# Settings that the compose file does not pass on, with the reason.
LEFT_OUT = {
    "STUDYGOV_HOST": "set by the image",
    "STUDYGOV_PORT": "set by the image; STUDYGOV_PUBLISH is the port of the machine",
    "STUDYGOV_PROJECT_HOME": "set by the image, which has a volume there",
    "HOME": "set by the image",
    "STUDYGOV_SECRETS_DIR": "each secret has a file of its own",
    "PGPASSWORD": "DB_PASSWORD is set",
    "STUDYGOV_BROKER": "the address is given in parts, as its password is in a file",
    "STUDYGOV_CELERY_BROKER": "the address is given in parts, as its password is in a file",
}
# Settings that workers with a broker do not get, with the reason.
NOT_FOR_WORKERS = {"SECURITY_EMAIL_SENDER": "STUDYGOV_EMAIL_FROM is the name for workers"}


def variables_of(service):
    return {name.removesuffix("_FILE") for name in service["environment"]}


def test_every_setting_can_be_set(services):
    settings = program_settings()
    server, worker = variables_of(services["server"]), variables_of(services["worker"])
    missing = {name for name in settings if name not in server | worker}
    assert not missing - set(LEFT_OUT), f"docker-compose.yml lacks {sorted(missing - set(LEFT_OUT))}"
    assert not set(LEFT_OUT) - missing, "set after all"
    # Those of database and secrets are for a worker without a broker.
    shared = {"Database", "Secrets"}
    wanted = {name for name, one in settings.items() if "worker" in one["readers"] and one["group"] not in shared}
    assert not wanted - worker - set(LEFT_OUT) - set(NOT_FOR_WORKERS)
    wanted = {name for name, one in settings.items() if "server" in one["readers"]}
    assert not wanted - server - set(LEFT_OUT)


def test_no_setting_is_passed_on_that_the_program_does_not_read(services):
    for name in ("server", "worker", "example", "secrets"):
        unread = variables_of(services[name]) - set(program_settings()) - ignored_names() - {"FASTRHOME"}
        assert not unread, f"{name}: {sorted(unread)}"


def test_a_setting_of_the_environment_reaches_the_containers():
    services = config(STUDYGOV_INSTANCE_NAME="A study", STUDYGOV_WORKER_CONCURRENCY="7")
    assert services["server"]["environment"]["STUDYGOV_INSTANCE_NAME"] == "A study"
    assert services["worker"]["environment"]["STUDYGOV_WORKER_CONCURRENCY"] == "7"


def test_a_worker_has_no_secret_of_the_server(services):
    worker = services["worker"]
    assert not [name for name in worker["environment"] if name.startswith(("DB_", "SECRET", "SECURITY", "SQLALCHEMY", "STUDYGOV_ADMIN"))]
    mounts = {volume["source"] for volume in worker["volumes"]}
    assert mounts == {"project", "broker-secrets"}


def test_no_secret_is_written_down(services):
    for name, service in services.items():
        for setting, value in (service.get("environment") or {}).items():
            if re.search("(PASSWORD|SECRET_KEY|SALT)$", setting) and value and setting != "MARIADB_RANDOM_ROOT_PASSWORD":
                assert (setting, value) == ("STUDYGOV_ADMIN_PASSWORD", "admin"), (name, setting)


def test_services_are_healthy_before_others_need_them(services):
    for name in ("db", "broker", "server", "worker"):
        service = services[name]
        for needed, how in service.get("depends_on", {}).items():
            assert how["condition"] == ("service_completed_successfully" if needed == "secrets" else "service_healthy"), (name, needed)
        # The healthcheck of the server is that of its image.
        assert name == "server" or service["healthcheck"]["test"], name
        assert service["logging"]["options"]["max-size"], name
        assert service["stop_grace_period"], name
    assert "check_port_connectivity" in services["broker"]["healthcheck"]["test"]


def test_the_worker_has_time_to_end(services):
    worker = services["worker"]
    assert seconds(worker["stop_grace_period"]) >= seconds(worker["environment"]["STUDYGOV_WORKER_GRACE"]) + 30


def test_only_this_machine_reaches_what_has_a_known_password(services):
    for name in ("server", "mail"):
        assert [port["host_ip"] for port in services[name]["ports"]] == ["127.0.0.1"], name
    for name in ("db", "broker", "worker", "secrets"):
        assert "ports" not in services[name], name


def test_the_dockerfile_is_clean():
    done = subprocess.run(["hadolint", DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    text = (DOCKER / "Dockerfile").read_text()
    assert "syntax=" not in text
    assert text.count("USER 10001:0") == 2 and "--locked" in text
