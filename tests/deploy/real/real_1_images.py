"""Tests of the images."""

import json

import pytest
from conftest import build, copy_of_the_tree, measured
from stack import IMAGE, SERVER_IMAGE, docker, eventually, run

# As few rights as a container can have: no user of the image, no capabilities, no writable files.
BARE = ("--rm", "--read-only", "--user", "54321:0", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none")


def config(tag):
    return json.loads(docker("image", "inspect", tag))[0]["Config"]


def test_images_are_small(images):
    assert images[SERVER_IMAGE] < 60e6, images
    assert images[IMAGE] < 260e6, images


def test_a_changed_source_file_compiles_the_product_alone(images, tmp_path, tmp_path_factory):
    tree = copy_of_the_tree(tmp_path)
    with (tree / "src" / "main.rs").open("a") as file:
        file.write("// changed\n")
    seconds, compiled = build(tmp_path_factory.mktemp("build"), "studygovernor", "studygovernor-deploy-test:changed", tree)
    assert set(compiled) == {"studygovernor", "migration"}, compiled
    measured(f"image built in {seconds:.0f} s after a change of one source file")


def test_both_images_say_what_they_are(images):
    whole, server = config(IMAGE), config(SERVER_IMAGE)
    labels = {name: value for name, value in whole["Labels"].items() if name.startswith("org.") and not name.endswith(".base.name")}
    assert len(labels) == 5 and labels.items() <= server["Labels"].items()
    for one in (whole, server):
        assert one["User"] == "10001:0"
        assert one["Healthcheck"]["Test"] == ["CMD", "studygovernor", "health"]
        assert one["Cmd"] == ["serve"] and one["Entrypoint"][-1] == "studygovernor"
        assert "8000/tcp" in one["ExposedPorts"]


@pytest.mark.parametrize("tag", [IMAGE, SERVER_IMAGE])
def test_a_server_runs_with_a_read_only_root_as_any_user(images, tag):
    # The embedded database in a volume: this user can only write to the folders that the image prepared for group 0.
    volume = docker("volume", "create")
    settings = ("-e", "STUDYGOV_ADMIN_USERNAME=admin", "-e", "STUDYGOV_ADMIN_PASSWORD=admin")
    options = [option for option in BARE if option != "--rm"]
    container = docker("run", "-d", *options, "--tmpfs", "/tmp", "-v", f"{volume}:/var/lib/studygovernor", *settings, tag)
    try:
        health = ("inspect", "-f", "{{.State.Status}} {{.State.Health.Status}}", container)
        eventually("the server to be healthy", lambda: docker(*health) == "running healthy", 120)
        code = run("docker", "exec", container, "studygovernor", "db", "status", check=False)
        assert code.returncode == 0, code.stderr
        written = run("docker", "exec", container, "studygovernor", "completions", "bash", check=False)
        assert written.returncode == 0, written.stderr
    finally:
        docker("rm", "-f", container)
        docker("volume", "rm", volume)


def test_what_callbacks_use_is_in_the_default_image(images):
    for program in (("git", "--version"), ("python3", "-c", "import json, ssl, sqlite3"), ("ssh", "-V"), ("sh", "-c", "true")):
        docker("run", *BARE, "--entrypoint", program[0], IMAGE, *program[1:])


def test_the_server_image_has_no_shell_and_knows_authorities(images):
    refused = run("docker", "run", *BARE, "--entrypoint", "sh", SERVER_IMAGE, "-c", "true", check=False)
    assert refused.returncode == 127, refused
    container = docker("create", SERVER_IMAGE)
    try:
        names = run("sh", "-c", f"docker export {container} | tar -t").stdout.splitlines()
    finally:
        docker("rm", container)
    assert "etc/ssl/certs/ca-certificates.crt" in names
    assert not [name for name in names if "/apt/" in name or name.endswith(("/bash", "/perl", "/dpkg"))]
