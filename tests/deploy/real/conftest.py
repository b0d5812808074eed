"""Images of the present tree, built once; the measurements are printed at the end."""

import json
import os
import re
import shutil
import time

import pytest
import yaml
from stack import DOCKER, IMAGE, OLDER_IMAGE, ROOT, SERVER_IMAGE, Stack, docker, run

# A commit before docker-compose was added and before the last five migrations.
OLDER = os.environ.get("TEST_DEPLOY_OLDER", "e2ce048")
MEASURED = []


def measured(line):
    MEASURED.append(line)
    print(line)


def pytest_terminal_summary(terminalreporter):
    terminalreporter.section("measured")
    for line in MEASURED:
        terminalreporter.write_line(line)


def build(folder, target, tag, context=ROOT):
    """Builds a target as `docker-compose build` does; returns the seconds and the names of the crates that were compiled.

    `folder` is for a file of this function.
    """
    part = {"context": str(context), "dockerfile": str(DOCKER / "Dockerfile"), "target": target}
    override = folder / f"build-{target}.yml"
    override.write_text(yaml.safe_dump({"services": {"secrets": {"image": tag, "build": part}}}))
    files = ["-f", DOCKER / "docker-compose.yml", "-f", override, "--project-directory", DOCKER]
    began = time.monotonic()
    done = run("docker", "compose", *files, "--progress", "plain", "build", "secrets", env=os.environ | {"DOCKER_BUILDKIT": "1"})
    compiled = re.findall(r"\bCompiling (\S+) v\d", done.stdout + done.stderr)
    return time.monotonic() - began, compiled


def copy_of_the_tree(folder):
    """The build context of the image, in a separate folder."""
    for name in (".dockerignore", "Cargo.toml", "Cargo.lock"):
        shutil.copy2(ROOT / name, folder)
    for name in ("src", "migration", "templates", "assets", "examples"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Both targets of the present tree; returns their sizes in bytes."""
    folder = tmp_path_factory.mktemp("images")
    seconds, compiled = build(folder, "studygovernor", IMAGE)
    measured(f"image built in {seconds:.0f} s, with {len(compiled)} crates compiled")
    seconds, compiled = build(folder, "server", SERVER_IMAGE)
    measured(f"target `server` built in {seconds:.0f} s after that, with {len(compiled)} crates compiled")
    sizes = {tag: json.loads(docker("image", "inspect", tag))[0]["Size"] for tag in (IMAGE, SERVER_IMAGE)}
    for tag, size in sizes.items():
        measured(f"{tag}: {size / 1e6:.1f} MB")
    return sizes


@pytest.fixture(scope="session")
def older(tmp_path_factory):
    """The program of an older commit in an image of today; cached, because it does not change."""
    if run("docker", "image", "inspect", OLDER_IMAGE, check=False).returncode == 0:
        return OLDER_IMAGE
    folder = tmp_path_factory.mktemp("older")
    archive = run("git", "-C", ROOT, "archive", "-o", folder / "tree.tar", OLDER, check=False)
    if archive.returncode != 0:
        pytest.skip(f"the commit {OLDER} is not here: {archive.stderr.strip()}; TEST_DEPLOY_OLDER names another one")
    run("tar", "-xf", folder / "tree.tar", "-C", folder)
    manifest = folder / "Cargo.toml"
    profile = (ROOT / "Cargo.toml").read_text().split("[profile.container]")[1].split("\n[")[0]
    if "[profile.container]" not in manifest.read_text():
        manifest.write_text(f"{manifest.read_text()}\n[profile.container]{profile}\n")
    seconds, compiled = build(folder, "studygovernor", OLDER_IMAGE, folder)
    measured(f"older image ({OLDER}) built in {seconds:.0f} s, with {len(compiled)} crates compiled")
    return OLDER_IMAGE


@pytest.fixture(scope="module")
def stacks(images, tmp_path_factory):
    """Creates stacks and removes them at the end; TEST_DEPLOY_KEEP=1 keeps them."""
    made = []

    def make(name, **options):
        made.append(Stack(name, tmp_path_factory.mktemp(name), **options))
        made[-1].close()
        return made[-1]

    yield make
    for one in made:
        if not os.environ.get("TEST_DEPLOY_KEEP"):
            one.close()
