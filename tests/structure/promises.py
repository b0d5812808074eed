#!/usr/bin/env python3
"""Checks docs/RULES.md: each cited id is defined there, each promise has a test, each named test exists.

    promises.py [--root DIR]            prints what is wrong, with file and line; exits with 1 if anything is
    promises.py [--root DIR] --write    writes the lists of tests into docs/RULES.md again
"""

import argparse
import re
import sys
from collections import defaultdict
from pathlib import Path

RULES = "docs/RULES.md"
# Letters that may begin the id of a promise. `E` and `Q` are in use; the others are reserved so that a new group cannot
# be cited undefined.
ID = re.compile(r"\b([EQSPA][0-9]{1,2})\b(?!-)")
SECTION = re.compile(r"^### ([A-Z][0-9]{1,2}): .", re.M)
# A test function, or the line with which a macro creates a test of a function for each database.
TEST = re.compile(
    r"#\[(?:tokio::)?test[^\]]*\]\s*(?:#\[[^\]]*\]\s*)*(?:pub )?(?:async )?fn ([a-z0-9_]+)"
    r"|^ +([eqspa][0-9]{1,2}_[a-z0-9_]+)[;,]$",
    re.M,
)
LISTED = re.compile(r"^- `(tests/[^`]+|src/[^`]+|migration/[^`]+)`: (.*)$", re.M)
NAME = re.compile(r"`([a-z0-9_]+)`")


def sources(root):
    for folder in ("src", "migration", "tests", "benches"):
        yield from sorted(path for path in (root / folder).rglob("*.rs") if "target" not in path.parts)


def documents(root):
    yield from sorted(root.glob("*.md"))
    yield from sorted((root / "docs").rglob("*.md"))


def ids_of(name):
    """`e4_q1_late` belongs to E4 and Q1, `e1_to_e8_model` to E1, E2, … E8, `late_report` to none."""
    ids, parts = [], name.split("_")
    while parts and re.fullmatch(r"[eqspa][0-9]{1,2}", parts[0]):
        first = parts.pop(0).upper()
        ids.append(first)
        if len(parts) > 1 and parts[0] == "to" and re.fullmatch(first[0].lower() + r"[0-9]{1,2}", parts[1]):
            ids += [f"{first[0]}{number}" for number in range(int(first[1:]) + 1, int(parts[1][1:]) + 1)]
            parts = parts[2:]
    return ids


def tests(root):
    """Each promise with its tests: `{id: {file: [name]}}`."""
    found = defaultdict(lambda: defaultdict(list))
    for path in sources(root):
        for name in sorted({"".join(names) for names in TEST.findall(path.read_text(encoding="utf-8"))}):
            for one in ids_of(name):
                found[one][path.relative_to(root).as_posix()].append(name)
    return found


def cited(root):
    """Ids in comments of the code, in names of tests and in the text of documents, as (file, line, id)."""
    for path in sources(root):
        text = path.read_text(encoding="utf-8")
        where = path.relative_to(root).as_posix()
        for number, line in enumerate(text.splitlines(), 1):
            comment = re.search(r"(?:^|\s)//[/!]?(.*)$", line)
            for one in ID.findall(comment.group(1)) if comment else ():
                yield where, number, one
        for match in TEST.finditer(text):
            for one in ids_of(match.group(1) or match.group(2)):
                yield where, text[: match.start()].count("\n") + 1, one
    for path in documents(root):
        fenced = False
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.lstrip().startswith("```"):
                fenced = not fenced
            elif not fenced:
                for one in ID.findall(re.sub(r"`[^`]*`", "", line)):
                    yield path.relative_to(root).as_posix(), number, one


def sections(text):
    """Each promise with its whole section."""
    starts = list(SECTION.finditer(text))
    ends = [match.start() for match in re.finditer(r"^##+ ", text, re.M)] + [len(text)]
    return {match.group(1): text[match.start() : min(end for end in ends if end > match.start())] for match in starts}


def problems(root):
    text = (root / RULES).read_text(encoding="utf-8")
    promises, proved = sections(text), tests(root)
    numbers = [match.group(1) for match in SECTION.finditer(text)]
    for one in sorted({one for one in numbers if numbers.count(one) > 1}):
        yield f"{RULES}: {one} is defined twice"
    for where, line, one in cited(root):
        if one not in promises:
            yield f"{where}:{line}: cites {one}, which {RULES} does not define"
    for one, section in promises.items():
        if "*Why:*" not in section:
            yield f"{RULES}: {one} has no reason; add a paragraph that begins with *Why:*"
        if not proved[one]:
            yield f"{RULES}: {one} has no test; the name of one has to begin with {one.lower()}_"
        listed = {(file, name) for file, names in LISTED.findall(section) for name in NAME.findall(names)}
        actual = {(file, name) for file, names in proved[one].items() for name in names}
        for file, name in sorted(listed - actual):
            yield f"{RULES}: {one} names the test {name} of {file}, which does not exist; run promises.py --write"
        for file, name in sorted(actual - listed):
            yield f"{RULES}: {one} does not name its test {name} of {file}; run promises.py --write"


def write(root):
    text, proved = (root / RULES).read_text(encoding="utf-8"), tests(root)
    for one, section in sections(text).items():
        body = re.sub(r"\n*Tests:\n\n(?:- .*\n?)*", "\n", section).rstrip()
        lines = [f"- `{file}`: {', '.join(f'`{name}`' for name in names)}" for file, names in sorted(proved[one].items())]
        rest = "\n\n" if text.index(section) + len(section) < len(text) else "\n"
        text = text.replace(section, body + "\n\nTests:\n\n" + "\n".join(lines) + rest)
    (root / RULES).write_text(text, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[2])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.write:
        write(options.root)
    found = list(problems(options.root))
    print("\n".join(found) or "every promise has its tests")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
