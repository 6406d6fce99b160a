"""The reference of all keys of a config and all options of methods: accepted values, default, and purpose of each.

``python -m mmcl_fast.config.reference PAGE.md ...`` writes the tables of a Markdown page anew between its markers; see
``fill_tables``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mmcl_fast.config.schema import Config, MethodSection, Section
from mmcl_fast.errors import ConfigError, suggest
from mmcl_fast.methods import METHODS, options
from mmcl_fast.methods.shared.options import option_model
from mmcl_fast.option_fields import FormerName, Symbol, default_of, expected_words, marker, search_space, toml

TABLE = re.compile(r"(<!-- options: (\w+)((?: \w+)*) -->\n)(.*?)(<!-- /options -->)", re.S)


@dataclass(frozen=True)
class Entry:
    """One key of a config, or one option of a method.

    Attributes:
        key: the full key for ``--set`` and messages, such as ``train.seed`` or ``method.options.rank``.
        expected: the values that it accepts, in words, such as ``a whole number from 1``.
        default: the default value.
        help: its purpose.
        symbol: its symbol in formulas, as LaTeX without dollars; "" without any.
        former_name: the name that the option had in earlier versions; "" without any.
        search: what ``mmcl-fast tune`` searches, in words such as "0.001 to 1, log"; "" where it searches nothing.
    """

    key: str
    expected: str
    default: Any
    help: str
    symbol: str = ""
    former_name: str = ""
    search: str = ""

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition(".")[2]

    @property
    def default_text(self) -> str:
        """The default value as TOML writes it; None is ``"none"``."""
        return toml(self.default)


def config_entries() -> Iterator[Entry]:
    """Yield every key of a config except [method.options], in the order of the sections."""
    return _entries(Config, "")


def option_entries(method: str) -> Iterator[Entry]:
    """Yield every option of a method, custom methods included.

    Raises:
        ConfigError: no method has that name.
    """
    return _entries(option_model(options(method)), "method.options.")


def all_entries() -> dict[str, list[Entry]]:
    """Return all keys: ``""`` -> the keys of a config, then each method's name -> its options."""
    return {"": list(config_entries())} | {name: list(option_entries(name)) for name in METHODS}


def section_help() -> dict[str, str]:
    """Return the purpose of every section of a config, by names such as ``stream.datasets.image``."""
    return dict(_sections(Config, ""))


def about_section(kind: type[Section]) -> str:
    """Return the purpose of a section, from its docstring, without markup."""
    return " ".join((kind.__doc__ or "").partition("]: ")[2].replace("``", "").split())


def markdown_table(entries: Iterable[Entry]) -> str:
    """Return a Markdown table of entries: name, accepted values, default, and purpose.

    Columns with symbols, and with what ``mmcl-fast tune`` searches, are there if any entry has one.
    """
    rows = list(entries)
    symbols, searched = any(row.symbol for row in rows), any(row.search for row in rows)
    head = ["option", *["symbol"] * symbols, "values", *["tune searches"] * searched, "default", "what it does"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        symbol = [f"${row.symbol}$" if row.symbol else ""] * symbols
        cells = [f"`{row.name}`", *symbol, row.expected, *[row.search] * searched, f"`{row.default_text}`", row.help]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def fill_tables(page: str) -> str:
    """Write the tables of options in a Markdown page anew.

    A table stands between ``<!-- options: METHOD NAME ... -->`` and ``<!-- /options -->``; without names it has all of
    the method's options.

    Raises:
        ConfigError: a marker names a method or an option that does not exist.
    """
    return TABLE.sub(lambda found: found[1] + markdown_table(_chosen(found[2], found[3].split())) + found[5], page)


def _chosen(method: str, names: Sequence[str]) -> list[Entry]:
    known = {entry.name: entry for entry in option_entries(method)}
    for name in names:
        if name not in known:
            raise ConfigError(f"options of {method}: {name}: no such option; {suggest(name, known)}")
    return [known[name] for name in names] if names else list(known.values())


def _entries(model: type[BaseModel], path: str) -> Iterator[Entry]:
    space = search_space(model)
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _entries(field.annotation, f"{path}{name}.")
        elif not (model is MethodSection and name == "options"):  # each method has options of its own
            symbol, former = marker(field, Symbol), marker(field, FormerName)
            yield Entry(
                path + name,
                expected_words(field),
                default_of(field),
                field.description or "",
                symbol.latex if symbol else "",
                former.name if former else "",
                space[name].words if name in space else "",
            )


def _sections(model: type[Section], path: str) -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield path + name, about_section(field.annotation)
            yield from _sections(field.annotation, f"{path}{name}.")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        page = Path(name)
        page.write_text(fill_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
