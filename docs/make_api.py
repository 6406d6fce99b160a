"""Writes docs/api.md from the docstrings of the package's public names: ``python docs/make_api.py``."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

PAGE = Path(__file__).with_name("api.md")
ROOMS = ("ops", "media", "streams", "encoders", "methods", "learning", "report", "export", "serve")
MODULES = ("mmcl_fast", *(f"mmcl_fast.{room}" for room in ROOMS), "mmcl_fast.errors")
SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises):")
HEAD = """# API

The public names of the package, from their docstrings: written by `python docs/make_api.py`, not by hand. Shapes are in
brackets; B samples, C classes, D the width of an embedding.

"""


def page() -> str:
    modules = [importlib.import_module(name) for name in MODULES]
    lines = [f"- [{m.__name__}](#{anchor(m.__name__)}): {', '.join(f'`{n}`' for n in names(m))}" for m in modules]
    seen: dict[int, str] = {}
    return HEAD + "\n".join([*lines, "", *(line for m in modules for line in _module(m, seen))]).rstrip() + "\n"


def names(module: ModuleType) -> list[str]:
    """What a module offers, in its own order; of the one without ``__all__``, its classes."""
    found = getattr(module, "__all__", None)
    if found is not None:
        return list(found)
    return [n for n, v in vars(module).items() if inspect.isclass(v) and v.__module__ == module.__name__]


def anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def _module(module: ModuleType, seen: dict[int, str]) -> Iterator[str]:
    yield from (f"## {module.__name__}", "", *text(module), "")
    for name in names(module):
        value, full = inspect.unwrap(getattr(module, name)), f"{module.__name__}.{name}"  # a cached function too
        yield from (f"### {full}", "")
        if id(value) in seen:
            yield from (f"See [{seen[id(value)]}](#{anchor(seen[id(value)])}).", "")
        elif inspect.isclass(value) or inspect.isfunction(value):
            seen[id(value)] = full
            yield from _member(name, value)
            yield from _members(value) if inspect.isclass(value) else ()
        else:
            yield from ("```text", f"{name} = {_constant(value)}", "```", "")


def _member(name: str, value: Any, above: str = "") -> Iterator[str]:
    if not isinstance(value, property):
        yield from ("```python", above + signature(name, value), "```", "")
    yield from (*text(value), "")


def _members(kind: type) -> Iterator[str]:
    """Its own public methods and properties that say what they are for."""
    for name, raw in vars(kind).items():
        value = raw.__func__ if isinstance(raw, (classmethod, staticmethod)) else raw
        if name.startswith("_") or not (inspect.isfunction(value) or isinstance(value, property)) or not value.__doc__:
            continue
        yield from (f"#### {kind.__name__}.{name}", "", *_member(name, value, "@classmethod\n" * (value is not raw)))


def signature(name: str, value: Any) -> str:
    """One line, or a line for each argument where it is long."""
    word = "class " if inspect.isclass(value) else "def "
    if inspect.isclass(value) and value.__init__ is object.__init__:
        return f"{word}{name}"
    if inspect.isclass(value) and issubclass(value, Exception):
        return f"{word}{name}({value.__bases__[0].__name__})"
    found = inspect.signature(value.__init__ if inspect.isclass(value) else value)
    given = [p for p in found.parameters.values() if p.name not in ("self", "cls")]
    returned = found.empty if inspect.isclass(value) else found.return_annotation
    told = found.replace(parameters=given, return_annotation=returned)
    line = _plain(str(told))
    if len(line) + len(word + name) <= 110:
        return f"{word}{name}{line}"
    parts, star = [], False
    for p in given:
        if p.kind is p.KEYWORD_ONLY and not star and not any(q.kind is q.VAR_POSITIONAL for q in given):
            parts.append("*")
            star = True
        parts.append(_plain(str(p)))
    end = line[line.rindex(") ->" if ") ->" in line else ")") :]
    return "\n".join([f"{word}{name}(", *(f"    {part}," for part in parts), end])


def _plain(said: str) -> str:
    """Annotations, which are strings, without their quotes; defaults keep theirs."""
    said = re.sub(r"(: |-> )'([^']*)'", r"\1\2", said)
    return said.replace("mmcl_fast.", "")


def _constant(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {getattr(kept, '__name__', repr(kept))}" for key, kept in value.items()) + "}"
    return repr(value).replace("mmcl_fast.", "")


def text(value: Any) -> list[str]:
    """A docstring as Markdown: paragraphs, and its sections as lists."""
    out: list[str] = []
    for part in re.split(r"\n\s*\n", inspect.getdoc(value) or ""):
        lines = part.splitlines()
        found = SECTION.fullmatch(lines[0]) if lines else None
        if found and found[1] == "Returns":
            out += ["**Returns:** " + _words(lines[1:]), ""]
        elif found:
            out += [f"**{found[1]}:**", "", *_entries(lines[1:]), ""]
        elif all(line.startswith("    ") for line in lines) and lines:
            out += ["```text", *(line[4:] for line in lines), "```", ""]
        else:
            out += [_words(lines), ""]
    return out[:-1]


def _entries(lines: list[str]) -> Iterator[str]:
    entries: list[list[str]] = []
    for line in lines:
        if line.startswith("     ") and entries:
            entries[-1].append(line)
        else:
            entries.append([line])
    for entry in entries:
        name, _, rest = _words(entry).partition(": ")
        yield f"- `{name}`: {rest}" if rest and "`" not in name else f"- {_words(entry)}"


def _words(lines: list[str]) -> str:
    words = " ".join(" ".join(lines).split())
    words = re.sub(r":\w+:`([^`]+)`", r"`\1`", words).replace("``", "`")
    return re.sub(r"(`[^`]*`)|<", lambda found: found[1] or "&lt;", words)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written: {PAGE}")
