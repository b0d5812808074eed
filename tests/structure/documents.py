#!/usr/bin/env python3
"""Checks the documents: links and anchors lead somewhere, named files exist, every file of docs/ is reachable from docs/README.md, and the glossary
names no old word that the code no longer has. Nothing is fetched.

    documents.py [--root DIR]    prints what is wrong, with file and line; exits with 1 if anything is
"""

import argparse
import os
import re
import sys
from pathlib import Path

from tree import ROOT

INDEX = "docs/README.md"
GLOSSARY = "docs/GLOSSARY.md"
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)|^\[[^\]]+\]: *(\S+)", re.M)
NAMED = re.compile(r"`((?:src|tests|migration|templates|docs|charts|benches|assets|examples|\.docker)/[\w./-]*\w/?)`")


def documents(root):
    found = sorted(root.glob("*.md")) + sorted((root / "docs").rglob("*.md"))
    return [path for path in found if path.name != "CHANGELOG.md"] + [path for path in found if path.name == "CHANGELOG.md"]


def prose(text):
    """The text with code blocks emptied, so that numbers of lines stay."""
    return re.sub(r"^( *)```.*?^\1```", lambda match: re.sub(r"[^\n]", "", match.group()), text, flags=re.S | re.M)


def anchors(text):
    """Anchors as GitHub and the site make them. Of equal headings only the first one counts."""
    found = set()
    for heading in re.findall(r"^#{1,6} +(.+?)\s*#*$", prose(text), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        found.add(re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-"))
    return found


def links(path, text):
    """Each relative link as (line, file, anchor); the file is absolute, the anchor empty when there is none."""
    for match in LINK.finditer(re.sub(r"`[^`\n]*`", lambda code: "`" * len(code.group()), prose(text))):
        target = match.group(1) or match.group(2)
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        name, _, anchor = target.partition("#")
        yield text.count("\n", 0, match.start()) + 1, (path.parent / name).resolve() if name else path, anchor


def problems(root):
    texts = {path: path.read_text(encoding="utf-8") for path in documents(root)}
    reached = {}
    for path, text in texts.items():
        where = path.relative_to(root).as_posix()
        reached[path] = set()
        for line, target, anchor in links(path, text):
            if not target.exists():
                yield f"{where}:{line}: the link leads to {os.path.relpath(target, root)}, which does not exist"
            elif anchor and anchor not in anchors(texts.get(target, "")):
                yield f"{where}:{line}: {target.name} has no heading with the anchor #{anchor}"
            reached[path].add(target)
        for match in NAMED.finditer(prose(text)) if path.name != "CHANGELOG.md" else ():
            if not (root / match.group(1)).exists():
                yield f"{where}:{text.count(chr(10), 0, match.start()) + 1}: names {match.group(1)}, which does not exist"
    yield from unreachable(root, reached)
    yield from old_words(root)


def unreachable(root, reached):
    seen, waiting = set(), [root / INDEX]
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += [target for target in reached.get(path, ()) if target.is_relative_to(root / "docs")]
    for path in sorted((root / "docs").rglob("*")):
        if path.is_file() and path not in seen:
            yield f"{path.relative_to(root).as_posix()}: no link leads here from {INDEX}"


def old_words(root):
    """The last column of a table with the heading 'older name in code'."""
    words, is_table = [], False
    for number, line in enumerate((root / GLOSSARY).read_text(encoding="utf-8").splitlines(), 1):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        is_table = line.startswith("|") and (is_table or cells[-1] == "older name in code")
        words += [(number, word) for word in re.findall(r"`(\w+)`", cells[-1]) if is_table]
    files = list((root / "src").rglob("*.rs"))
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    known = set(re.findall(r"\w+", code)) | {path.stem for path in files}
    for number, word in words:
        if word not in known:
            yield f"{GLOSSARY}:{number}: the code has no '{word}' any longer; remove it from the column"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=lambda text: Path(text).resolve(), default=ROOT)
    found = list(problems(parser.parse_args().root))
    print("\n".join(found) or "all links lead somewhere")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
