"""Write a config out as TOML: every key with its purpose, accepted values and default."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from mmcl_fast.config.reference import Entry, about_section, config_entries, option_entries
from mmcl_fast.config.schema import Config, MethodSection, Section
from mmcl_fast.option_fields import toml

WIDTH = 118


def config_to_toml(config: Config, name: str) -> str:
    """Write a config as TOML that ``load_config`` reads back as the same config, in whatever folder the file lies.

    Args:
        config: the config.
        name: what the first line calls it.
    """
    lines = [
        f"# {name} with every key written out: mmcl-fast train FILE.toml --out runs/NAME",
        '# "none" leaves a key empty. mmcl-fast train ... --set SECTION.KEY=VALUE goes before what is here.',
    ]
    entries = {entry.key: entry for entry in config_entries()}
    return "\n".join([*lines, *_section_lines(config, "", entries, set())]) + "\n"


def _section_lines(section: Section, path: str, entries: dict[str, Entry], seen: set[type]) -> Iterator[str]:
    """Yield the lines of a table. A second table of the same kind is written without comments."""
    commented = type(section) not in seen
    seen.add(type(section))
    values = {name: getattr(section, name) for name in type(section).model_fields}
    tables = {name: value for name, value in values.items() if isinstance(value, Section)}
    keys = {name: entries[f"{path}.{name}".lstrip(".")] for name in values if f"{path}.{name}".lstrip(".") in entries}
    if path:
        yield ""
        if commented:
            about = about_section(type(section))
            yield from _comment(about[:1].upper() + about[1:])
        if keys:
            yield f"[{path}]"
    for name, entry in keys.items():
        if commented:
            yield from _describe(entry)
        yield f"{name} = {toml(values[name])}"
    for name, table in tables.items():
        yield from _section_lines(table, f"{path}.{name}".lstrip("."), entries, seen)
    if isinstance(section, MethodSection):
        yield from _option_lines(section)


def _option_lines(section: MethodSection) -> Iterator[str]:
    if section.options:
        yield from ("", f"# Options of {section.name}.", "[method.options]")
    for entry in option_entries(section.name):
        yield from _describe(entry)
        yield f"{entry.name} = {toml(section.options[entry.name])}"


def _describe(entry: Entry) -> list[str]:
    return _comment(f"{entry.help or 'No description'} ({entry.expected}; default {entry.default_text})")


def _comment(words: str) -> list[str]:
    return textwrap.wrap(
        " ".join(words.split()),
        WIDTH,
        initial_indent="# ",
        subsequent_indent="#   ",
        break_long_words=False,
        break_on_hyphens=False,
    )
