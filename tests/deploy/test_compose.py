"""The compose file: valid with each profile, complete, and with secrets only where they belong."""

import os
import re
import subprocess

import pytest
import yaml
from conftest import ROOT
from test_documents import program_settings

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


# Fixed by the image or the compose file.
FIXED = {"STUDYGOV_HOST", "STUDYGOV_PORT", "STUDYGOV_PROJECT_HOME", "STUDYGOV_WORKER_LISTEN", "STUDYGOV_SECRETS_DIR"}
# Another form of a setting that is listed.
OTHER_FORM = {"STUDYGOV_BROKER", "STUDYGOV_CELERY_BROKER"}


def test_every_setting_can_be_set():
    text = (DOCKER / "docker-compose.yml").read_text()
    names = set(re.findall(r"^\s+([A-Z][A-Z0-9_]+):", text, re.M))
    missing = {name for name in program_settings() if name not in names and f"{name}_FILE" not in names}
    assert not missing - FIXED - OTHER_FORM, f"docker-compose.yml lacks {sorted(missing - FIXED - OTHER_FORM)}"


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
