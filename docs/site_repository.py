"""Files outside docs/ that pages link to: the site shows them as pages, and a link to a function leads to its line."""

from __future__ import annotations

import ast
import functools
import os
import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
FENCED = re.compile(r"^```.*?^```\s*$", re.MULTILINE | re.DOTALL)
PICTURES = (".png", ".svg")
# GitHub needs no empty line before a list, but Python-Markdown does.
LIST = re.compile(r"^((?![-|#>\s]).+\n)(?=- )", re.MULTILINE)
# These stand in the site's own list of pages; README.md's content is the start page's.
KNOWN = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md"}
LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json", ".cpp": "cpp", ".cu": "cuda", ".h": "cpp", ".sh": "sh"}


def pages() -> dict[str, str]:
    """Text of every page to add, by its place in the site: the files that pages link to, and what those link to."""
    waiting = [*KNOWN, *(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))]
    seen, found = {*waiting, "README.md"}, {}
    while waiting:
        path = waiting.pop()
        text = (ROOT / path).read_text(encoding="utf-8")
        if not path.startswith("docs/"):
            page = relink(LIST.sub(r"\1\n", text), path) if path.endswith(".md") else code_page(path, text)
            found[place(path)] = page
        if path.endswith(".md"):
            targets = (resolve(link, path)[0] for link in links(text))
            new = {target for target in targets if target and not target.endswith(PICTURES)} - seen
            seen |= new
            waiting += sorted(new)
    return found


def links(text: str) -> list[str]:
    """Targets of a page's links, without links in code."""
    return [target for _, _, target in LINK.findall(FENCED.sub("", text))]


def resolve(link: str, path: str) -> tuple[str | None, str]:
    """(path in the repository, anchor) of a link on the page ``path``; None for an address or a folder."""
    if re.match(r"[a-z]+:", link):
        return None, ""
    target, _, anchor = link.partition("#")
    full = posixpath.normpath(posixpath.join(posixpath.dirname(path), target)) if target else path
    return (full if (ROOT / full).is_file() else None), anchor


def place(path: str) -> str:
    """The place of a repository file among the site's sources."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path == "README.md":
        return "README.md"
    if path in KNOWN:
        return KNOWN[path]
    return f"repository/{path.removesuffix('.md')}.md"


def relink(text: str, path: str) -> str:
    """A page's text whose links lead to places in the site."""
    here = posixpath.dirname(place(path))

    def change(found: re.Match[str]) -> str:
        picture, label, link = found.groups()
        target, anchor = resolve(link, path)
        if target is None or picture or target == path:
            return found[0]
        if target.startswith("docs/") and path.startswith("docs/"):
            return found[0]
        to = posixpath.relpath(place(target), here or ".")
        if target.endswith((".md", *PICTURES)):
            return f"[{label}]({to}{'#' * bool(anchor)}{anchor})"
        line = line_of(target, label.strip("`"))
        # Python-Markdown would look for the line's anchor among headings.
        href = to.removesuffix(".md") + ".html" + (f"#__codelineno-0-{line}" if line else "")
        return f'<a href="{href}">{label}</a>'

    parts, last = [], 0
    for block in FENCED.finditer(text):
        parts += [LINK.sub(change, text[last : block.start()]), block[0]]
        last = block.end()
    return "".join([*parts, LINK.sub(change, text[last:])])


def code_page(path: str, text: str) -> str:
    """A page that shows a file with numbered lines."""
    language = LANGUAGES.get(Path(path).suffix, "text")
    fence = "`" * 6
    return f'---\nsearch:\n  exclude: true\n---\n# {path}\n\n{fence}{language} linenums="1"\n{text}\n{fence}\n'


def line_of(path: str, name: str) -> int | None:
    """The line of a Python file where a function or class is defined, such as ``Learner.learn``; None without one."""
    return definitions(path, os.stat(ROOT / path).st_mtime_ns).get(name.removesuffix("()"))


@functools.cache
def definitions(path: str, _changed: int = 0) -> dict[str, int]:
    """Lines of the classes, functions and methods of a Python file, by their dotted names."""
    if not path.endswith(".py"):
        return {}
    found: dict[str, int] = {}

    def visit(node: ast.AST, above: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                found[above + child.name] = child.lineno
                visit(child, f"{above}{child.name}.")

    visit(ast.parse((ROOT / path).read_text(encoding="utf-8")), "")
    return found
