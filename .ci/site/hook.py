"""Fits the repository's documents into a site: the navigation is the list in docs/README.md, and pages outside of docs/ become part of it."""

import re
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = ["CONTRIBUTING.md", "CHANGELOG.md"]
STYLE = """.wy-nav-content { max-width: 1000px }
.wy-table-responsive table td, .wy-table-responsive table th { white-space: normal; font-size: 90% }
td code, li code { white-space: normal }
"""
LINK = re.compile(r"\[([^\]]+)\]\(([^)]+\.md)\)")


def entries(path):
    """The sections of a document, each with the titles and files that its list links to; before the first heading it is ''."""
    sections = {"": []}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            sections[line[3:]] = []
        elif line.startswith("- "):
            for title, target in LINK.findall(line):
                target = target.removeprefix("../") if target.startswith("../") else (path.parent / target).relative_to(ROOT / "docs").as_posix()
                sections[list(sections)[-1]].append({title: target})
    return sections


def on_config(config):
    sections = entries(ROOT / "docs" / "README.md")
    decisions = [entry for found in entries(ROOT / "docs" / "decisions" / "README.md").values() for entry in found]
    config.nav = [{"Overview": "README.md"}, *({title: found} for title, found in sections.items() if found), {"Decisions": decisions}]
    return config


def on_files(files, config):
    for name in OUTSIDE:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    files.append(File.generated(config, "site.css", content=STYLE))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links between the two folders, as they are in the site; a link to a file that is not part of it becomes its name."""
    name = page.file.src_uri

    def link(match):
        text, target = match.group(1), match.group(2)
        if re.match(r"[a-z]+:|#", target):
            return match.group(0)
        path, _, anchor = target.partition("#")
        home = ROOT if name in OUTSIDE else ROOT / "docs" / Path(name).parent
        found = (home / path).resolve()
        if found.is_relative_to(ROOT / "docs") and found.is_file():
            inside = found.relative_to(ROOT / "docs").as_posix()
        elif found.is_relative_to(ROOT / "docs" / "decisions"):
            inside = "decisions/README.md"
        elif found.parent == ROOT and found.name in OUTSIDE:
            inside = found.name
        else:
            return text
        steps = "../" * name.count("/")
        return f"[{text}]({steps}{inside}{'#' + anchor if anchor else ''})"

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", link, markdown)


def on_page_content(html, page, config, files):
    """GitHub takes a list or table that Python-Markdown does not; it is found here and not by a reader."""
    broken = re.search(r"<(p|li)>[^<]*\n(?:- |\d+\. |\|)|<p>\|", html)
    if broken:
        raise PluginError(f"{page.file.src_uri}: a list or table is not recognised near {broken.group(0)[-80:]!r}; put a blank line before it, indent by four")
    # In a table, GitHub needs a backslash before the bar of a command and hides it.
    return re.sub(r"<code>[^<]*</code>", lambda code: code.group(0).replace("\\|", "|"), html)


def on_post_build(config):
    """The site loads nothing from other hosts."""
    for path in Path(config.site_dir).rglob("*"):
        if path.suffix in (".html", ".css"):
            for match in re.finditer(r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["']?(https?:)?//[^>]*>|url\(["']?https?://[^)]*\)""", path.read_text(encoding="utf-8")):
                raise PluginError(f"{path}: loads {match.group(0)}")
