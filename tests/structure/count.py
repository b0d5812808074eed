#!/usr/bin/env python3
"""Prints the size of the code and where it repeats itself. Nothing fails: the numbers are for comparing.

    count.py [--rev COMMIT] [--list]    --list names each place
"""

import argparse
import re
from collections import defaultdict
from pathlib import Path

from tree import ROOT, code_only, files, tree, without_tests

LONG_FUNCTION, LONG_FILE, REPEATED = 60, 300, 6


def functions(code):
    """Name, first line and number of lines of each function with a body."""
    for match in re.finditer(r"\bfn (\w+)", code):
        start = re.compile(r"[{;]").search(code, match.end())
        if not start or start.group() == ";":
            continue
        depth, at = 0, start.start()
        for brace in re.compile(r"[{}]").finditer(code, at):
            depth += 1 if brace.group() == "{" else -1
            if depth == 0:
                yield match.group(1), code.count("\n", 0, match.start()) + 1, code.count("\n", match.start(), brace.start()) + 1
                break


def module_of(root, path):
    """`src/engine/locked.rs` is ("engine", "locked"), `src/engine/mod.rs` is ("engine",)."""
    parts = path.relative_to(root / "src").with_suffix("").parts
    return parts[:-1] if parts[-1] in ("mod", "lib", "main") else parts


def paths(code):
    """All paths that begin with crate or super, with those in braces expanded."""
    for match in re.finditer(r"\b(?:crate|super)((?:::\w+)*)(::\{)?", code):
        head = match.group(0).removesuffix("::{").split("::")
        yield head
        if match.group(2):
            depth, end = 1, match.end()
            while depth and end < len(code):
                depth += {"{": 1, "}": -1}.get(code[end], 0)
                end += 1
            for inner in re.sub(r"\{[^{}]*\}", "", code[match.end() : end - 1]).split(","):
                if inner.strip():
                    yield head + inner.strip().split(" as ")[0].split("::")


def circles(root):
    """Groups of files that depend on each other. A module and its own children count as one."""
    modules = {module_of(root, path): path for path in files(root, "src", ".rs")}
    edges = defaultdict(set)
    for module, path in modules.items():
        for steps in paths(code_only(without_tests(path.read_text(encoding="utf-8")))):
            base = module
            while steps and steps[0] in ("crate", "super"):
                base = () if steps[0] == "crate" else base[:-1]
                steps = steps[1:]
            target = base + tuple(step.strip() for step in steps)
            while target and target not in modules:
                target = target[:-1]
            if target and target != module[: len(target)] and module != target[: len(module)]:
                edges[module].add(target)
    return [sorted(group) for group in groups(modules, edges) if len(group) > 1]


def groups(nodes, edges):
    """Strongly connected components: each node reaches the others of its group and is reached by them."""

    def reached(start):
        seen, waiting = set(), [start]
        while waiting:
            for target in edges[waiting.pop()] - seen:
                seen.add(target)
                waiting.append(target)
        return seen

    reach = {node: reached(node) for node in nodes}
    done = set()
    for node in sorted(nodes):
        if node not in done:
            group = {node} | {other for other in reach[node] if node in reach[other]}
            done |= group
            yield group


def lines_that_count(path):
    """Numbered lines of code without imports and lone punctuation."""
    text = path.read_text(encoding="utf-8")
    code = code_only(without_tests(text))
    kept = []
    for number, (line, bare) in enumerate(zip(text.splitlines(), code.splitlines()), 1):
        bare = " ".join(bare.split())
        if not re.search(r"\w", bare) or re.match(r"(pub(\(\w+\))? )?(use|mod) ", bare):
            continue
        kept.append((number, " ".join(line.split())))
    return kept


def repeated(root):
    """Runs of lines that occur twice, as (file, line, file, line, length). Lines that occur more than eight times are common idiom."""
    places = defaultdict(list)
    kept = {path: lines_that_count(path) for path in files(root, "src", ".rs") + files(root, "migration/src", ".rs")}
    for path, lines in kept.items():
        for at in range(len(lines) - REPEATED + 1):
            places[tuple(line for _, line in lines[at : at + REPEATED])].append((path, at))
    pairs = set()
    for window, found in places.items():
        if 1 < len(found) <= 8 and len(set(window)) > REPEATED // 2:
            pairs |= {(one, other) for index, one in enumerate(found) for other in found[index + 1 :] if abs(one[1] - other[1]) >= REPEATED or one[0] != other[0]}
    runs = []
    for (path, at), (other, there) in sorted(pairs):
        if ((path, at - 1), (other, there - 1)) not in pairs:
            length = REPEATED
            while ((path, at + length - REPEATED + 1), (other, there + length - REPEATED + 1)) in pairs:
                length += 1
            runs.append((path, kept[path][at][0], other, kept[other][there][0], length))
    return runs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--rev")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    with tree(options.root, options.rev) as root:
        report(root, options.list)


def report(root, is_listed):
    def show(title, rows):
        print(f"{title}: {len(rows)}")
        for row in rows if is_listed else ():
            print(f"    {row}")

    shown = lambda path: path.relative_to(root).as_posix()
    codes = {path: code_only(without_tests(path.read_text(encoding="utf-8"))) for path in files(root, "src", ".rs")}
    all_functions = [(length, f"{shown(path)}:{line} {name}") for path, code in codes.items() for name, line, length in functions(code)]
    print(f"functions in src: {len(all_functions)}, median {sorted(all_functions)[len(all_functions) // 2][0]} lines")
    show(f"functions over {LONG_FUNCTION} lines", [f"{place} {length}" for length, place in sorted(all_functions, reverse=True) if length > LONG_FUNCTION])
    sizes = sorted(((code.count("\n"), shown(path)) for path, code in codes.items()), reverse=True)
    show(f"files over {LONG_FILE} lines, without unit tests", [f"{place} {size}" for size, place in sizes if size > LONG_FILE])
    show("circles between files", [" ↔ ".join("::".join(module) for module in group) for group in circles(root)])
    rows = [f"{shown(path)}:{line} ~ {shown(other)}:{there}, {length} lines" for path, line, other, there, length in repeated(root)]
    show(f"pairs of places with {REPEATED} or more equal lines", rows)
    count = lambda folder: sum(path.read_text(encoding="utf-8").count("\n") for path in files(root, folder, ".rs"))
    print(", ".join(f"lines in {folder}: {count(folder)}" for folder in ("src/api", "src/web", "src", "migration", "tests")))


if __name__ == "__main__":
    main()
