"""Parse the methods, switches and seeds that a sweep compares.

A variant is a method with some of its options changed: ``ridge``, ``ridge:features=z``, or for an ablation of COMM
``rank=8:drift=false``. Keys of ``STREAM_KEYS`` can change, too: ``comm:stream.classes_per_task=none`` learns one task
per modality.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmcl_fast.config import LARGEST_SEED, Config, build_config, parse_override
from mmcl_fast.errors import ConfigError, suggest
from mmcl_fast.methods import BUILT_IN, METHODS

MAX_SEEDS = 1000
ENCODER_KEYS = ("prompt_blocks",)  # keys of [encoder]; all other keys of a variant are options of its method
STREAM_KEYS = ("classes_per_task", "order")  # keys of [stream] that a variant may change: its samples stay the same
TITLES = {"comm": "COMM (ours)", "comm_abstract": "COMM, abstract only"}  # of rows with a method's defaults
ONE_TASK = ":stream.classes_per_task=none"
FIXED_BLOCKS = "the embedded encoder always prompts its own two blocks"


@dataclass(frozen=True)
class MethodVariant:
    """A method with some of its options changed: a row of the tables.

    Attributes:
        name: how the user names it, such as "ridge:features=z".
        folder: the name of its folder in the folder of the sweep.
        method: the method's name.
        options: options of the method that differ from the base config.
        encoder: keys of [encoder] that differ from the base config.
        stream: keys of [stream] that differ from the base config.
        spec: where the user named it, such as "--methods ridge:features=z"; error messages begin with it.
        tuned: what ``mmcl-fast tune`` found for it, as in tuned.json; None: its options are not tuned.
    """

    name: str
    folder: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    encoder: dict[str, Any] = field(default_factory=dict)
    stream: dict[str, Any] = field(default_factory=dict)
    spec: str = ""
    tuned: dict[str, Any] | None = None

    @property
    def title(self) -> str:
        """Its name in tables and plots, such as "COMM (ours), tuned"."""
        name = self.name.removesuffix(ONE_TASK)
        one_task = ", one task per modality" if name != self.name else ""
        return TITLES.get(name, name) + one_task + (", tuned" if self.tuned else "")

    def features(self, base: Config) -> str:
        """Return what its classifier reads: "z" (embeddings), "q" (queries), or "zq"; "" for a custom method.

        "zq+4" also has embeddings under 4 reading prompts.
        """
        options = self.make_config(base, 0).method.options
        named = options.get("features", options.get("source"))
        if named is None:
            named = ("zq" if options.get("reads_query") else "z") if self.method in BUILT_IN else ""
        reading = options.get("reading_prompts", 0)
        if not (options.get("prompts", True) and options.get("token_scale_shift", True)):
            reading = 0  # of COMM: where nothing scales tokens, there are none
        return f"{named}+{reading}" if named and reading else str(named)

    def make_config(self, base: Config, seed: int) -> Config:
        """Return the base config with the changes of this variant.

        Options of the base config apply to the method that the base config names; other methods start from their
        defaults. A sweep has many runs: if the base config keeps all checkpoints, its runs keep two each.

        Where tasks have a number of classes, the seed also draws which ones. A base config that gives
        ``stream.shuffle_classes`` itself decides that.

        Args:
            seed: fixes training, the order of the tasks and their classes.

        Raises:
            ConfigError: a key or value is wrong; the message names the variant and the key.
        """
        values = base.model_dump(mode="json")
        options = values["method"]["options"] if values["method"]["name"] == self.method else {}
        values["method"] = {"name": self.method, "options": options | self.options}
        values["encoder"] |= self.encoder
        values["stream"] |= self.stream
        values["stream"]["seed"] = values["train"]["seed"] = seed
        if values["stream"]["classes_per_task"] not in (None, "none") and not keeps_class_groups(base):
            values["stream"]["shuffle_classes"] = True
        if base.train.keep_checkpoints == "all":
            values["train"]["keep_checkpoints"] = 2
        if "prompt_blocks" in self.encoder and base.encoder.name == "embedded":
            raise ConfigError(f"{self.spec}: prompt_blocks: {FIXED_BLOCKS}; leave it out or use a CLIP")
        return build_config(values, self.spec)


def keeps_class_groups(base: Config) -> bool:
    """Return whether a config itself sets ``stream.shuffle_classes``, so that seeds do not set it."""
    return "shuffle_classes" in base.stream.model_fields_set


def parse_seeds(seeds: str | Iterable[int]) -> list[int]:
    """Return the seeds in their order, each once.

    Args:
        seeds: numbers, or a text such as ``0..4`` or ``0,3,7``.

    Raises:
        ConfigError: the text is of another form, a seed is negative or too large, or a range has more than
            ``MAX_SEEDS`` seeds.
    """
    text = seeds if isinstance(seeds, str) else ",".join(map(str, seeds))
    out: dict[int, None] = {}
    for piece in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,19})(?:\.\.(\d{1,19}))?\s*", piece)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, -1)
        if not first <= last <= min(LARGEST_SEED, first + MAX_SEEDS - 1):
            raise ConfigError(f"--seeds {text}: give whole numbers such as 0..4 or 0,3,7, at most {MAX_SEEDS}")
        out |= dict.fromkeys(range(first, last + 1))
    return list(out)


def parse_methods(methods: str | Sequence[str], base: Config) -> list[MethodVariant]:
    """Return the variants that a text such as ``comm,ridge,ridge:features=z``, or a list of its parts, names.

    Raises:
        ConfigError: a method or option does not exist, a value is out of range, or a variant is given twice.
    """
    variants = []
    for piece in _split(methods, "--methods"):
        name, _, changes = piece.partition(":")
        if name not in METHODS:
            raise ConfigError(f"--methods {piece}: no such method; {suggest(name, list(METHODS))}")
        spec = f"--methods {piece}"
        variants.append(MethodVariant(piece, _folder_name(piece), name, *_parse_changes(changes, spec), spec))
    return _require_different(variants, base)


Options = dict[str, Any]
# From the options of COMM in the base config: the (title, changed options) of each variant.
_MakeVariants = Callable[[Options], list[tuple[str, Options]]]


def _turn_off(key: str, title: str) -> _MakeVariants:
    return lambda base: [(title, {key: False})]


def _halve_and_double(key: str, title: str) -> _MakeVariants:
    def change(base: Options) -> list[tuple[str, Options]]:
        values = (max(1, base[key] // 2), base[key] * 2) if isinstance(base[key], int) else ()
        return [(f"{title} {value}", {key: value}) for value in values]

    return change


# Name of a switch -> (what it changes, its variants).
SWITCHES: dict[str, tuple[str, _MakeVariants]] = {
    "prompts": (
        "no prompts at all, or prompts whether they pay or not",
        lambda base: [("no prompts", {"prompts": False}), ("prompts always", {"prompts": True})],
    ),
    "prompt_updates": (
        "each prompt trained on one task alone",
        _turn_off("prompt_updates", "no training on later tasks"),
    ),
    "scale_shift": ("prompts are prefixes alone", _turn_off("token_scale_shift", "no scales and shifts of tokens")),
    "class_targets": (
        "class texts, or targets learned from them, instead of a classifier in prompt learning",
        lambda base: [
            ("class texts as targets", {"class_targets": "texts"}),
            ("learned class targets", {"class_targets": "learned"}),
        ],
    ),
    "reading_prompts": ("no reading prompts", lambda base: [("no reading prompts", {"reading_prompts": 0})]),
    "aggregation": ("no intra-modal aggregation", _turn_off("aggregation", "no intra-modal aggregation")),
    "self_regularisation": (
        "no self-regularisation",
        lambda base: [("no self-regularisation", {"self_regularisation": 0.0})],
    ),
    "assimilation": (
        "neither intra-modal aggregation nor self-regularisation",
        lambda base: [("no intra-modal assimilation", {"aggregation": False, "self_regularisation": 0.0})],
    ),
    "token_means": ("no mean tokens of old classes", _turn_off("token_means", "no mean tokens")),
    "blending": ("no inter-modal blending", _turn_off("blending", "no inter-modal blending")),
    "relevance": (
        "the other relevance function, mlp or analytic",
        lambda base: [(f"relevance {kind}", {"relevance": kind}) for kind in ("analytic", "mlp")],
    ),
    "realignment": (
        "re-alignment trained after its closed form, in closed form alone, or none",
        lambda base: [
            ("re-alignment in closed form alone", {"realignment": "closed"}),
            ("re-alignment trained", {"realignment": "trained"}),
            ("no re-alignment", {"realignment": "off"}),
        ],
    ),
    "drift": ("no drift correction", _turn_off("drift", "no drift correction")),
    "weighted": (
        "re-alignment trained without contribution weights w",
        lambda base: [("re-alignment trained, no weights w", {"realignment": "trained", "weighted": False})],
    ),
    "prompt_blocks": (
        "prompts in one block, or in all",
        lambda base: [(f"prompt_blocks {n}", {"prompt_blocks": n}) for n in (1, "all")],
    ),
    "prompt_length": ("half and twice the prompt length", _halve_and_double("prompt_length", "prompt length")),
    "rank": ("half and twice the rank r", _halve_and_double("rank", "rank")),
}


def parse_switches(switches: str | Sequence[str] | None, base: Config) -> tuple[list[MethodVariant], list[str]]:
    """Return COMM as the base config has it, and the variants of each switch.

    Args:
        switches: names of ``SWITCHES`` and changes such as ``rank=8`` or ``drift=false:weighted=false``, in one text
            with commas between or in a list. None: all switches.

    Returns:
        The variants, and a line for each switch that is left out because it changes nothing here.

    Raises:
        ConfigError: the method of the base config is not comm; else as for ``parse_methods``.
    """
    if base.method.name != "comm":
        raise ConfigError(
            f"method.name = {base.method.name!r}: ablate changes the switches of comm; add --set method.name=comm"
        )
    now = base.method.options | {"prompt_blocks": base.encoder.prompt_blocks}
    variants, left_out = [MethodVariant("comm", "comm", "comm", spec="comm")], []
    for piece in _split(list(SWITCHES) if switches is None else switches, "--switches"):
        spec = f"--switches {piece}"
        if "=" in piece:
            title = piece.replace(":", ", ").replace("=", " = ")
            variants.append(MethodVariant(title, _folder_name(piece), "comm", *_parse_changes(piece, spec), spec))
            continue
        if piece not in SWITCHES:
            raise ConfigError(f"{spec}: no such switch; {suggest(piece, list(SWITCHES))}, or a change such as rank=8")
        if piece == "prompt_blocks" and base.encoder.name == "embedded":
            left_out.append(f"{piece}: left out: {FIXED_BLOCKS}")
            continue
        found = [
            (title, changes)
            for title, changes in SWITCHES[piece][1](now)
            if any(now[key] != value for key, value in changes.items())
        ]
        if not found:
            left_out.append(f"{piece}: left out: the config already has this change")
        for title, changes in found:
            folder = _folder_name(":".join(f"{key}={str(value).lower()}" for key, value in changes.items()))
            variants.append(MethodVariant(title, folder, "comm", *_split_changes(changes, spec), spec))
    return _require_different(variants, base), left_out


def _split(names: str | Sequence[str], option: str) -> list[str]:
    pieces = [piece.strip() for piece in (names.split(",") if isinstance(names, str) else names)]
    if "" in pieces or not pieces:
        raise ConfigError(f"{option} {names!r}: an empty name; give names with commas between")
    return pieces


def _parse_changes(text: str, spec: str) -> tuple[Options, Options, Options]:
    """Return the changes of ``a=1:b=x`` as ``_split_changes`` does."""
    changes: Options = {}
    for part in text.split(":") if text else ():
        if not re.fullmatch(r"(stream\.)?\w+=.+", part):
            raise ConfigError(f"{spec}: {part!r}: expected key=value, for example rank=8")
        key, value = parse_override(part)
        changes[key] = value
    return _split_changes(changes, spec)


def _split_changes(changes: Options, spec: str) -> tuple[Options, Options, Options]:
    """Return the options of the method, the keys of [encoder], and the keys of [stream]."""
    options, encoder, stream = Options(), Options(), Options()
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        if not section:
            (encoder if key in ENCODER_KEYS else options)[key] = value
        elif name in STREAM_KEYS:
            stream[name] = value
        else:
            known = " and ".join(f"stream.{key}" for key in STREAM_KEYS)
            raise ConfigError(f"{spec}: {key}: all rows have the same samples; only {known} can differ between rows")
    return options, encoder, stream


def _folder_name(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text)


def _require_different(variants: Sequence[MethodVariant], base: Config) -> list[MethodVariant]:
    """Return the variants; ConfigError if two have the same config or the same folder, or one has a wrong value."""
    by_config: dict[tuple, MethodVariant] = {}
    by_folder: dict[str, MethodVariant] = {}
    for variant in variants:
        config = variant.make_config(base, 0)
        stream = [getattr(config.stream, name) for name in STREAM_KEYS]
        key = (variant.method, *sorted(config.method.options.items()), config.encoder.prompt_blocks, repr(stream))
        for first in (by_config.setdefault(key, variant), by_folder.setdefault(variant.folder, variant)):
            if first is not variant:
                raise ConfigError(f"{variant.spec}: the same as {first.name}; name it once")
    return list(variants)
