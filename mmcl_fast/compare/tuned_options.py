"""Read what ``mmcl-fast tune`` chose, and give it to the rows of a comparison."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmcl_fast.compare.variants import MethodVariant
from mmcl_fast.config import Config, build_config, read_json_object
from mmcl_fast.errors import ConfigError, RunError
from mmcl_fast.option_fields import toml
from mmcl_fast.runs.folder import first_difference

TUNED = "tuned.json"
# Keys of [stream] that may differ between tuning and comparison. Options are chosen on validation samples.
FREE_STREAM_KEYS = ("seed", "test_on", "validation", "check", "on_broken")

FILE_KEYS = {"config", "config_digest", "seeds", "trials"}
ROW_KEYS = {"name", "changes", "chosen", "edges", "space", "trials"}


def config_to_compare(config: Config) -> dict[str, Any]:
    """Return the values of a config that the best options depend on."""
    values = config.model_dump(mode="json", include={"stream", "media", "encoder", "method"})
    for key in FREE_STREAM_KEYS:
        del values["stream"][key]
    return values


def row_key(variant: MethodVariant) -> dict[str, Any]:
    """Return what makes two rows the same: their method and their changes of the base config, as JSON values."""
    names = ("method", "options", "encoder", "stream")
    return {name: getattr(variant, name) for name in names}


def read_tuned(folder: Path) -> dict[str, Any]:
    """Return the values of a tuned.json, with ``folder`` as well.

    Raises:
        RunError: the file is missing, or damaged.
    """
    file = folder / TUNED
    values = read_json_object(file, "run mmcl-fast tune again to write it")
    if values is None:
        raise RunError(f"{file}: no such file; give the --out folder of a finished mmcl-fast tune")
    rows = values.get("rows")
    whole = isinstance(rows, list) and all(isinstance(row, dict) and row.keys() >= ROW_KEYS for row in rows)
    if not whole or not values.keys() >= FILE_KEYS:
        raise RunError(f"{file}: not the file of mmcl-fast tune; give its --out folder")
    return values | {"folder": str(folder)}


def use_tuned_options(variants: Sequence[MethodVariant], base: Config, tuned: dict[str, Any]) -> list[MethodVariant]:
    """Return the variants with the options that were chosen for them, each in a folder of its own.

    Args:
        base: the config of the comparison.
        tuned: as ``read_tuned`` returns it.

    Raises:
        ConfigError: a variant was not tuned, or its method does not accept the chosen options.
    """
    out = []
    for variant in variants:
        row = next((row for row in tuned["rows"] if row["changes"] == row_key(variant)), None)
        if row is None or row["chosen"] is None:
            why = "no such row" if row is None else "all its trials failed"
            command = shlex.join(["mmcl-fast", "tune", "CONFIG", "--methods", variant.name])
            raise ConfigError(
                f"{Path(tuned['folder']) / TUNED}: {variant.name}: {why}; tune it with: {command} "
                f"--trials {tuned['trials']} --seeds {','.join(map(str, tuned['seeds']))} --out {tuned['folder']}"
            )
        about = {key: row[key] for key in ("chosen", "edges", "space")}
        about |= {"trials": len(row["trials"]), "seeds": tuned["seeds"]}
        folder, options = f"{variant.folder}-tuned", variant.options | row["chosen"]
        out.append(replace(variant, folder=folder, options=options, tuned=about))
        out[-1].make_config(base, 0)  # the method of today may refuse an option of then
    return out


def explain_tuned(variants: Sequence[MethodVariant], base: Config, tuned: dict[str, Any]) -> list[str]:
    """Return the footnotes of a comparison with tuned rows: how they were tuned, and what lies at an edge.

    Args:
        variants: as ``use_tuned_options`` returns them.
        base: the config of the comparison; a line warns where it differs from the tuned one.
    """
    trials = sorted({variant.tuned["trials"] for variant in variants if variant.tuned})
    count = f"{trials[0]} to {trials[-1]}" if trials[1:] else f"{trials[0]}"
    seeds = ", ".join(map(str, tuned["seeds"]))
    lines = [f"tuned: options chosen on validation samples in {count} trials a row, seeds {seeds} ({tuned['folder']})"]
    before = build_config(tuned["config"], str(Path(tuned["folder"]) / TUNED))  # with keys that were added since
    difference = first_difference(config_to_compare(before), config_to_compare(base))
    if difference:
        lines.append(f"warning: the rows were tuned with another config: {difference}")
    for variant in variants:
        lines += [f"{variant.title}: {text}" for text in describe_edges(variant.tuned or {})]
    return lines


def describe_edges(row: dict[str, Any]) -> list[str]:
    """Return a line for each chosen option at the edge of its search space. ``row``: a row of tuned.json."""
    return [
        f"{name} = {toml(row['chosen'][name])} lies at the edge of its search space {row['space'][name]}"
        for name in row.get("edges", ())
    ]
