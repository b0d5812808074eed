#!/usr/bin/env python3
"""Finds the worst habits of wording in documents, templates and comments, with a suggestion for each.

    wording.py                    checks the covered roots; exits with 1 if anything is found
    wording.py --count [--rev C]  prints how often each habit occurs in src, tests, templates and docs
    wording.py PATH …             checks these files or folders of the repository instead of the covered roots
"""

import argparse
import re
import sys
from pathlib import Path

from tree import ROOT, TOKEN, files, tree

# The roots that `make test` checks: documents, templates, and comments and texts of the program.
COVERED = ["README.md", "CONTRIBUTING.md", "docs", "templates", "src", "migration", "benches"]

ENDINGS = (".md", ".html", ".txt", ".rs", ".py", ".sh")
START = r"(?:(?<=[.!;:¶|] )|(?<=\*\*)|^\W*)"

# Name, pattern (in any case, except for the beginnings of sentences), suggestion.
HABITS = [
    ("somebody, nobody, everybody", r"\b(?:some|no|every|any)body\b(?! \()|\bwhoever\b", "name the actor: user, caller, worker, administrator"),
    ("headless What, Who", rf"{START}(?:What|Who|Whom|Whose)(?![^.!?¶|]*\?)(?: |'s )(?=\w)", "name the noun: 'New accounts wait', not 'Who has registered waits'"),
    ("headless who, what", r"(?:\b(?:of|for|by|to|from|with|and|that)|,) (?:who|whom) (?:has|is|wants|may|can|does|did|had|made|gives|looks|lost)\b", "name the noun: 'users who …'"),
    ("anew", r"\banew\b", "again, or re-create"),
    ("any more", r"\b(?:not?|never|cannot|nothing|n't)\b[^.;¶]{0,60}\bany ?more\b|\bany more\b(?= *[.,;:)¶]|$)|\bno more\b(?= *[.,;¶]|$)", "no longer"),
    ("of before", r"\bof before\b", "previous"),
    ("for good", r"\bfor good\b", "permanently"),
    ("by itself", r"\bby (?:it|them)sel(?:f|ves)\b", "automatically, separately"),
    ("all the same", r"\ball the same\b(?! \w+s\b)", "anyway"),
    ("so often, for so long", r"\bso often\b|\b(?:for|after) so (?:long|many)\b", "that many times, for that time"),
    ("is none", r"(?<!there )\b(?:is|are) none\b(?! of)", "is not a valid …"),
    ("is no thing", r"\b(?:that|which|it) (?:is|are) no (?!longer|more\b|less\b|other\b)\w+", "is not a …"),
    ("is good for", r"\b(?:is|are) good (?:for|until|no more|once)\b", "is valid for"),
    ("is told", r"\b(?:is|are|was|were|be|been|gets?) told\b", "is reported, is notified"),
    ("is heard", r"\bheard (?:of|from)\b|\bis heard\b|\bhears? (?:of|that|from)\b", "no heartbeat, learns"),
    ("let in", r"\blet(?:s|ting)? (?:\w+ )?in\b(?!to)", "approve, admit"),
    ("look after", r"\blook(?:s|ed|ing)? after\b", "manage, operate, maintain"),
    ("take away", r"\b(?:takes?|taken|took|taking) (?:\w+ ){0,3}away\b", "remove, delete, revoke"),
    ("give back", r"\b(?:gives?|given|gave|giving|hand(?:s|ed)?) (?:\w+ ){0,3}back\b", "release, return"),
    ("put out", r"\bputs? out\b|\bshuts? (?:\w+ )?out\b", "deactivate, exclude"),
    ("bring in", r"\b(?:brings?|brought|bringing) (?:[\w'-]+ ){0,4}(?:in|over)\b", "import, migrate"),
    ("stands in", r"\b(?:stands|stand) (?:in|here|there|with|beside|above|behind|twice|still in)\b", "is in, is listed"),
    ("lies in", r"\b(?:lies|lie|lay) (?:in|as|there|beside)\b", "is stored in"),
    ("is wanted", r"\b(?:is|are|not) wanted\b|\bwanted is\b", "is expected, is required"),
    ("is there", r"\b(?:is|are|was|were) there (?:already|now|yet)\b|\b(?:that|which|is not|are not) (?:is |are )?there\b(?! (?:is|are|was))", "exists, is present, is online"),
    ("is over", r"\b(?:is|are|time is) over\b(?= *[.,;:¶)]|$| and)", "has ended, has expired"),
    ("goes on", r"\b(?:goes|go|went|going) on\b(?! (?:to|with)\b)", "continues"),
    ("to be", r"\b[Aa]n? \w+ to be\b(?=[,.:;¶]|$)", "input for creating …"),
    ("come to nothing", r"\bc[ao]me(?:s)? (?:to nothing|of)\b", "fail, result in"),
    ("blotted, forgotten", r"\bblot(?:s|ted)? out\b", "redact"),
    ("ward, ailing, desk, dossier", r"\b(?:ailing|dossiers?|couriers?|infirmary)\b", "use the word of docs/GLOSSARY.md"),
    ("the existing product", r"\bexisting product\b", "version 8.1"),
]

# Uses that are right: file, a piece of the line, and why.
ALLOWED = [
    ("docs/GLOSSARY.md", "`courier`", "the name that the code still has"),
    ("docs/ARCHITECTURE.md", "src/mail/courier.rs", "the path of a file"),
]


def prose(path, text):
    """Numbered lines of the text that people read: no code, no markup. A sentence that begins behind markup begins behind `¶`."""
    if path.suffix == ".rs":
        kept = []
        for match in TOKEN.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            piece = match.group()
            if match.lastgroup == "comment":
                kept += [(line + at, re.sub(r"^\s*(?://[/!]?|/?\*+/?)\s?", "", one)) for at, one in enumerate(piece.split("\n"))]
            elif piece.count(" ") > 1 and match.lastgroup in ("text", "hashes"):
                kept += [(line + at, one.strip().strip('"')) for at, one in enumerate(piece.split("\n"))]
        return [(number, re.sub(r"`[^`]*`|\[[^\]]*\]", "x", line)) for number, line in kept]
    if path.suffix in (".py", ".sh") or path.name == "Makefile":
        return [(number, match.group(1)) for number, line in enumerate(text.splitlines(), 1) if (match := re.search(r"(?:^|\s)#+ (.*)$", line))]
    if path.suffix == ".html":
        text = re.sub(r"\{\{.*?\}\}", lambda match: "x" + "\n" * match.group().count("\n"), text, flags=re.S)
        text = re.sub(r"\{%.*?%\}", lambda match: " ¶ " + "\n" * match.group().count("\n"), text, flags=re.S)
        text = re.sub(
            r"<[^>]*>",
            lambda match: " ¶ "
            + " ¶ ".join(re.findall(r'(?:title|placeholder|aria-label|alt|data-confirm)="([^"]*)"', match.group()))
            + " ¶ "
            + "\n" * match.group().count("\n"),
            text,
            flags=re.S,
        )
        return [(number, re.sub(r"(?: ?¶)+ ?", "¶ ", line).strip()) for number, line in enumerate(text.splitlines(), 1)]
    kept, fenced = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            kept.append((number, re.sub(r"^\s*(?:[-*>]|\d+\.|#+)\s+", "", re.sub(r"`[^`]*`", "x", re.sub(r"\]\([^)]*\)", "]", line)))))
    return kept


def found(root, paths):
    """Each habit that occurs, as (file, line, index of the habit, the words)."""
    compiled = [re.compile(pattern, 0 if pattern.startswith(START) else re.IGNORECASE) for _, pattern, _ in HABITS]
    for path in paths:
        where = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        sentence_goes_on = False
        previous = None
        for number, line in prose(path, text):
            # A line in the middle of a paragraph begins no sentence unless the one before has ended.
            continues = previous == number - 1 and sentence_goes_on and path.suffix in (".md", ".txt", ".rs")
            previous, sentence_goes_on = number, bool(line.strip()) and not re.search(r"[.!?:|¶]\W*$", line)
            for index, pattern in enumerate(compiled):
                for match in pattern.finditer(line):
                    if HABITS[index][0].startswith("headless W") and match.start() == 0 and continues:
                        continue
                    if not any(where == file and piece in lines[number - 1] for file, piece, _ in ALLOWED):
                        yield where, number, index, match.group().strip(" ,;¶")


def check(root, roots):
    count = 0
    for where, number, index, words in found(root, [path for one in roots for path in files(root, one, *ENDINGS)]):
        print(f"{where}:{number}: '{words}': {HABITS[index][2]}")
        count += 1
    print(f"{count} habits to change; the words to use are in docs/GLOSSARY.md" if count else "no bad habits of wording")
    return count


def count(root):
    groups = {"src": ["src", "migration"], "tests": ["tests", "benches"], "templates": ["templates"], "docs": ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs"]}
    totals = {}
    for name, roots in groups.items():
        paths = [path for one in roots if (root / one).exists() for path in files(root, one, *ENDINGS) if path.name != "wording.py"]
        totals[name] = [0] * len(HABITS)
        for _, _, index, _ in found(root, paths):
            totals[name][index] += 1
    print(f"{'habit':32}" + "".join(f"{name:>11}" for name in groups))
    for index, (habit, _, _) in enumerate(HABITS):
        print(f"{habit:32}" + "".join(f"{totals[name][index]:11}" for name in groups))
    print(f"{'all':32}" + "".join(f"{sum(totals[name]):11}" for name in groups))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*")
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--count", action="store_true")
    parser.add_argument("--rev")
    options = parser.parse_args()
    with tree(options.root, options.rev) as root:
        if options.count:
            count(root)
        else:
            sys.exit(1 if check(root, options.paths or COVERED) else 0)


if __name__ == "__main__":
    main()
