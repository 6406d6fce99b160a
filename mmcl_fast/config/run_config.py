"""Read the config.json of a run folder, also one that an earlier version wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcl_fast.atomic_files import read_json_object
from mmcl_fast.config.loading import apply_overrides, build_config, make_paths_absolute
from mmcl_fast.config.schema import Config
from mmcl_fast.errors import RunError


def read_run_config(run: Path, overrides: Sequence[str] = ()) -> Config:
    """Read the config of a run folder, with overrides such as ``"train.workers=4"`` on top.

    Raises:
        RunError: config.json is missing or damaged.
        ConfigError: a key or a value is not valid any more, or an override isn't.
    """
    file = run / "config.json"
    values = _sections(_read_json(run))
    origin = apply_overrides(values, overrides)
    make_paths_absolute(values, Path.cwd(), str(file), origin)
    return build_config(values, str(file), origin)


def read_run_values(run: Path) -> dict[str, Any]:
    """Read all of a run folder's config.json, with keys that were added or renamed since as they are today.

    Raises:
        RunError: config.json is missing or damaged.
        ConfigError: a key or a value is not valid any more.
    """
    values = _read_json(run)
    return values | build_config(_sections(values), str(run / "config.json")).model_dump(mode="json")


def require_same_data(run: Path, fingerprint: str) -> None:
    """Check that a stream is the one that a run learned.

    Args:
        run: the run folder.
        fingerprint: of the stream, ``Stream.fingerprint``.

    Raises:
        RunError: it is not, or config.json is missing or damaged.
    """
    file = run / "config.json"
    found = _read_json(run).get("stream_fingerprint")
    if not isinstance(found, str):
        raise RunError(f"{file}: no stream_fingerprint in it; restore it from a copy")
    if found != fingerprint:
        raise RunError(
            f"{file}: the data have changed since the run (files added, removed, renamed or "
            "moved to another split or class); restore them as they were, or train a new run"
        )


def _read_json(run: Path) -> dict[str, Any]:
    values = read_json_object(run / "config.json", "restore it from a copy")
    if values is None:
        raise RunError(f"{run}: no config.json in it; give a folder that mmcl-fast train wrote")
    return values


def _sections(values: dict[str, Any]) -> dict[str, Any]:
    """The sections of a config in config.json's values; former names of options become the names of today."""
    from mmcl_fast.methods import METHODS, upgrade_options

    sections = {key: value for key, value in values.items() if key in Config.model_fields}
    method = sections.get("method")
    # Anything malformed is left as it is: build_config names it.
    if isinstance(method, dict) and method.get("name") in METHODS and isinstance(method.get("options"), dict):
        sections["method"] = method | {"options": upgrade_options(method["name"], method["options"])}
    return sections
