"""The configuration reference: every key of a config and every option of a method, from their models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mmcl_fast.config.reference import Entry, config_entries, option_entries, section_help
from mmcl_fast.methods import METHODS


def text() -> str:
    """Markdown of all keys, section by section, then of every method's options."""
    return "\n".join([*_sections(), *_methods()])


def _sections() -> Iterator[str]:
    """The keys of each section. ``stream.datasets.image`` stands for the datasets of all modalities."""
    by_section: dict[str, list[Entry]] = {}
    for entry in config_entries():
        by_section.setdefault(entry.key.rpartition(".")[0], []).append(entry)
    shown = False
    for section, entries in by_section.items():
        if section.startswith("stream.datasets."):
            if shown:
                continue
            shown = True
            yield from _heading("stream.datasets.<modality>", section_help().get(section, ""))
        else:
            yield from _heading(section, section_help().get(section, ""))
        yield from _definitions(entries)


def _heading(section: str, help: str) -> Iterator[str]:
    yield from (f"## `[{section}]`", "", *([_sentence(help), ""] if help else []))


def _methods() -> Iterator[str]:
    yield from ("## `[method.options]`", "", "Each method has options of its own.", "")
    for method in sorted(METHODS, key=lambda name: (name != "comm", name)):
        entries = list(option_entries(method))
        yield from (f"### {method}", "")
        yield from _definitions(entries) if entries else ("This method has no options.", "")


def _definitions(entries: Iterable[Entry]) -> Iterator[str]:
    for entry in entries:
        yield f"`{entry.name}`{f' (${entry.symbol}$)' if entry.symbol else ''}"
        facts = f"Takes {entry.expected}. Default: `{entry.default_text}`."
        facts += f" `tune` searches {entry.search}." if entry.search else ""
        former = f" Former name: `{entry.former_name}`." if entry.former_name else ""
        yield from (f":   {_sentence(entry.help)} {facts}{former}", "")


def _sentence(words: str) -> str:
    """Words with a capital at the start and a full stop at the end."""
    words = " ".join(words.split())
    return words[:1].upper() + words[1:] + "." * (words[-1:] not in ("", ".", "?"))
