"""The rows of a table, from what the command line says of them.

A row is a method, or COMM, with some of its options changed: ``ridge``, ``ridge:source=zq``, ``rank=8:drift=false``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmcl_fast.config import load as configs
from mmcl_fast.config.load import Config
from mmcl_fast.errors import ConfigError, suggest
from mmcl_fast.methods import METHODS

MOST_SEEDS = 1000
ENCODER_KEYS = ("prompt_blocks",)  # all other keys of a row are the method's options
OWN_BLOCKS = "the embedded encoder always prompts its own two blocks"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        title: in tables and plots.
        folder: of its runs, below that of the sweep.
        method: a method's name.
        options: those of the method that differ from the base config's.
        encoder: keys of [encoder] that differ.
        spec: what the command line said; begins messages.
    """

    title: str
    folder: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    encoder: dict[str, Any] = field(default_factory=dict)
    spec: str = ""

    def config(self, base: Config, seed: int) -> Config:
        """The base config with this row's changes; ``seed`` is that of training and of the stream's order.

        The base config's options go to the method that it names; others start from their defaults. Where all
        checkpoints would be kept, the two newest are: sweeps have many runs.

        Raises:
            ConfigError: names the row and the key.
        """
        values = base.model_dump(mode="json")
        own = values["method"]["options"] if values["method"]["name"] == self.method else {}
        values["method"] = {"name": self.method, "options": own | self.options}
        values["encoder"] |= self.encoder
        values["stream"]["seed"] = values["train"]["seed"] = seed
        if base.train.keep_checkpoints == "all":
            values["train"]["keep_checkpoints"] = 2
        if "prompt_blocks" in self.encoder and base.encoder.name == "embedded":
            raise ConfigError(f"{self.spec}: prompt_blocks: {OWN_BLOCKS}; leave it out or take a CLIP")
        return configs.build(values, self.spec)


def seeds(text: str) -> list[int]:
    """``0..4`` or ``0,3,7`` -> the seeds, in that order, each once.

    Raises:
        ConfigError: anything else.
    """
    out: dict[int, None] = {}
    for piece in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,19})(?:\.\.(\d{1,19}))?\s*", piece)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, -1)
        if not first <= last <= min(configs.LARGEST_SEED, first + MOST_SEEDS - 1):
            raise ConfigError(f"--seeds {text}: give whole numbers such as 0..4 or 0,3,7, at most {MOST_SEEDS}")
        out |= dict.fromkeys(range(first, last + 1))
    return list(out)


def methods(text: str, base: Config) -> list[Row]:
    """``comm,ridge,ridge:source=zq`` -> rows. Options after a method's name are changes to its own.

    Raises:
        ConfigError: no such method or option, a value out of range, or a row given twice.
    """
    rows = []
    for piece in _pieces(text, "--methods"):
        name, _, changes = piece.partition(":")
        if name not in METHODS:
            raise ConfigError(f"--methods {piece}: no such method; {suggest(name, list(METHODS))}")
        own, encoder = _changes(changes, f"--methods {piece}")
        rows.append(Row(piece, _folder(piece), name, own, encoder, f"--methods {piece}"))
    return _checked(rows, base)


# A switch: what it stands for, and its rows as (title, options) from the base config's options of COMM.
Options = dict[str, Any]
_Rows = Callable[[Options], list[tuple[str, Options]]]


def _off(key: str, title: str) -> _Rows:
    return lambda base: [(title, {key: False})]


def _around(key: str, title: str) -> _Rows:
    return lambda base: [(f"{title} {value}", {key: value}) for value in (max(1, base[key] // 2), base[key] * 2)]


SWITCHES: dict[str, tuple[str, _Rows]] = {
    "prompts": ("no prompts at all", _off("prompts", "no prompts")),
    "aggregation": ("no intra-modal aggregation", _off("aggregation", "no intra-modal aggregation")),
    "self_regularisation": (
        "no self-regularisation",
        lambda base: [("no self-regularisation", {"self_regularisation": 0.0})],
    ),
    "blending": ("no inter-modal blending", _off("blending", "no inter-modal blending")),
    "relevance": (
        "the other relevance function, mlp or analytic",
        lambda base: [(f"relevance {kind}", {"relevance": kind}) for kind in ("analytic", "mlp")],
    ),
    "realignment": (
        "re-alignment in closed form alone, or none",
        lambda base: [
            ("re-alignment in closed form alone", {"realignment": "closed"}),
            ("no re-alignment", {"realignment": "off"}),
        ],
    ),
    "drift": ("no drift correction", _off("drift", "no drift correction")),
    "weighted": ("no contribution weights w in re-alignment", _off("weighted", "no weights w")),
    "prompt_blocks": (
        "prompts in one block, or in all",
        lambda base: [(f"prompt_blocks {n}", {"prompt_blocks": n}) for n in (1, "all")],
    ),
    "prompt_length": ("half and twice the prompt length", _around("prompt_length", "prompt length")),
    "rank": ("half and twice the rank r", _around("rank", "rank")),
}


def switches(text: str | None, base: Config) -> tuple[list[Row], list[str]]:
    """COMM as the base config has it, then one row for each switch.

    Args:
        text: names of ``SWITCHES`` and changes of one's own such as ``rank=8`` or ``drift=false:weighted=false``,
            with commas between; None: all switches.

    Returns:
        Rows, and a line for each switch that changes nothing here and is left out.

    Raises:
        ConfigError: the base config's method is not comm; else as for ``methods``.
    """
    if base.method.name != "comm":
        raise ConfigError(
            f"method.name = {base.method.name!r}: ablate throws the switches of comm; add --set method.name=comm"
        )
    now = base.method.options | {"prompt_blocks": base.encoder.prompt_blocks}
    rows, left_out = [Row("comm", "comm", "comm", spec="comm")], []
    for piece in _pieces(",".join(SWITCHES) if text is None else text, "--switches"):
        spec = f"--switches {piece}"
        if "=" in piece:
            rows.append(
                Row(piece.replace(":", ", ").replace("=", " = "), _folder(piece), "comm", *_changes(piece, spec), spec)
            )
            continue
        if piece not in SWITCHES:
            raise ConfigError(f"{spec}: no such switch; {suggest(piece, list(SWITCHES))}, or a change such as rank=8")
        if piece == "prompt_blocks" and base.encoder.name == "embedded":
            left_out.append(f"{piece}: left out: {OWN_BLOCKS}")
            continue
        found = [
            (title, changes)
            for title, changes in SWITCHES[piece][1](now)
            if any(now[key] != value for key, value in changes.items())
        ]
        if not found:
            left_out.append(f"{piece}: left out: the config has it switched already")
        for title, changes in found:
            said = ":".join(f"{key}={str(value).lower()}" for key, value in changes.items())
            rows.append(Row(title, _folder(said), "comm", *_apart(changes), spec))
    return _checked(rows, base), left_out


def _pieces(text: str, option: str) -> list[str]:
    pieces = [piece.strip() for piece in text.split(",")]
    if "" in pieces:
        raise ConfigError(f"{option} {text!r}: an empty name; give names with commas between")
    return pieces


def _changes(text: str, spec: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """``a=1:b=x`` -> changes of the method's options, and of [encoder]."""
    own: dict[str, Any] = {}
    for part in text.split(":") if text else ():
        if not re.fullmatch(r"\w+=.+", part):
            raise ConfigError(f"{spec}: {part!r}: expected key=value, for example rank=8")
        key, value = configs.parse_override(part)
        own[key] = value
    return _apart(own)


def _apart(changes: Options) -> tuple[Options, Options]:
    """Those of the method's options, and those of [encoder]."""
    return (
        {key: value for key, value in changes.items() if key not in ENCODER_KEYS},
        {key: value for key, value in changes.items() if key in ENCODER_KEYS},
    )


def _folder(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text)


def _checked(rows: Sequence[Row], base: Config) -> list[Row]:
    seen: dict[tuple, Row] = {}
    folders: dict[str, Row] = {}
    for row in rows:
        config = row.config(base, 0)
        key = (row.method, *sorted(config.method.options.items()), config.encoder.prompt_blocks)
        twin = seen.setdefault(key, row)
        if twin is not row or folders.setdefault(row.folder, row) is not row:
            raise ConfigError(
                f"{row.spec}: the same as {(twin if twin is not row else folders[row.folder]).title}; name it once"
            )
    return list(rows)
