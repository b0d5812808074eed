#!/usr/bin/env python3
"""Copies the documents into a folder as Sphinx wants them: docs/README.md becomes the index, its lists become the navigation, pages of the
repository's top folder become part of the site, and links to files that are not part of it become plain text.

    stage.py FOLDER
"""

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
TOP = ["CONTRIBUTING.md", "CHANGELOG.md"]
LINK = re.compile(r"(!?)\[([^\]]+)\]\(([^)\s#]*)(#[^)\s]*)?\)")


def place(path):
    """Where a file of the repository is in the site; none when it is not part of it."""
    if path == DOCS / "README.md":
        return "index.md"
    if path == DOCS / "decisions":
        return "decisions/README.md"
    if path.is_relative_to(DOCS) and path.is_file():
        return path.relative_to(DOCS).as_posix()
    return path.name if path.parent == ROOT and path.name in TOP else None


def staged(path):
    """The text of a document, with its links as they are in the site."""

    def link(match):
        image, text, target, anchor = match.group(1), match.group(2), match.group(3), match.group(4) or ""
        if not target or re.match(r"[a-z]+:", target):
            return match.group(0)
        inside = place((path.parent / target).resolve())
        return f"{image}[{text}](/{inside}{anchor})" if inside else text

    code = re.compile(r"(^ *```.*?^ *```|`[^`\n]*`)", re.S | re.M)
    return "".join(piece if index % 2 else LINK.sub(link, piece) for index, piece in enumerate(code.split(path.read_text(encoding="utf-8"))))


def navigation(text):
    """A table of contents for each section of a page of lists. Paths begin at the top of the site."""
    for section in re.split(r"^## ", text, flags=re.M)[1:]:
        entries = [f"{title} <{target.removesuffix('.md')}>" for title, target in re.findall(r"^- \[([^\]]+)\]\((/[^)#]*\.md)\)", section, re.M)]
        if entries:
            yield "\n".join(["", "```{toctree}", ":hidden:", f":caption: {section.splitlines()[0]}", "", *entries, "```", ""])


def main():
    folder = Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    for path in [path for path in sorted(DOCS.rglob("*")) if path.is_file()] + [ROOT / name for name in TOP]:
        target = folder / place(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".md":
            shutil.copy(path, target)
            continue
        text = staged(path)
        if path.name == "README.md":
            text += "".join(navigation(text))
        target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
