"""YAML and shell scripts are clean."""

import subprocess

import pytest
import yaml
from conftest import ROOT

YAML = {
    "extends": "default",
    "rules": {
        "line-length": {"max": 200},
        "document-start": "disable",
        "braces": {"max-spaces-inside": 0},
        "comments": {"min-spaces-from-content": 1},
    },
}


def test_yaml_is_clean():
    files = [ROOT / "charts" / "studygovernor", ROOT / "tests" / "deploy", ROOT / ".docker"]
    found = [path for one in files if one.exists() for path in one.rglob("*.y*ml") if "templates" not in path.parts]
    assert len(found) > 10
    done = subprocess.run(["yamllint", "--strict", "-d", yaml.safe_dump(YAML), *found], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def shell_scripts():
    found = []
    for folder in ("charts", "tests/deploy", ".docker", ".ci"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix not in (".py", ".pyc", ".md", ".yaml", ".json", ".tpl", ".txt"):
                first = path.read_bytes().split(b"\n", 1)[0]
                if first.startswith(b"#!") and b"sh" in first.split(b"/")[-1]:
                    found.append(path)
    return found


@pytest.mark.parametrize("path", shell_scripts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_shell_scripts_are_clean(path):
    done = subprocess.run(["shellcheck", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_dockerfile_of_development_is_clean():
    # The versions of Debian packages are those of the Debian release.
    done = subprocess.run(["hadolint", "--ignore", "DL3008", ROOT / "charts" / "dev" / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
