"""Shared by the checks of this folder: the files of the repository, as they are now or at a commit, and Rust code
without comments and strings.
"""

import contextlib
import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def tree(root, revision):
    """The folder to read: `root`, or a temporary copy of one of its commits."""
    if revision is None:
        yield root
        return
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "-C", root, "archive", revision], check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        yield Path(folder)


def files(root, folder, *endings):
    """Files below a folder with one of these endings, sorted, without build output."""
    found = root / folder
    if found.is_file():
        return [found]
    return sorted(
        path
        for path in found.rglob("*")
        if path.is_file() and path.suffix in endings and not {"target", "node_modules", "__pycache__"} & set(path.relative_to(root).parts)
    )


TOKEN = re.compile(
    r"""
      (?P<comment>//[^\n]*|/\*.*?\*/)
    | (?P<raw>\bb?r(?P<hashes>\#*)".*?"(?P=hashes))
    | (?P<text>b?"(?:\\.|[^"\\])*")
    | (?P<char>b?'(?:\\[^\n]{1,8}?|[^'\\\n])')
    """,
    re.X | re.S,
)


def code_only(text):
    """Rust with comments, strings and characters replaced by blanks; lines and columns stay."""
    return TOKEN.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), text)


def without_tests(text):
    """Rust up to its unit tests."""
    return re.split(r"^#\[cfg\(test\)\]\n(?:#\[[^\n]*\n)*mod ", text, maxsplit=1, flags=re.M)[0]
