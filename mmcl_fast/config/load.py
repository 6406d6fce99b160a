"""The configuration of a run: TOML in, a validated ``Config`` out, with errors that name file and key."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mmcl_fast.config.schema import DEVICE, LARGEST_SEED, Config, Section  # noqa: F401  (known by this module's name too)
from mmcl_fast.errors import ConfigError, RunError, suggest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SHIPPED = Path(__file__).with_name("shipped")


def load(name: str | Path, overrides: Sequence[str] = ()) -> Config:
    """A config by shipped name (``demo``) or path, with ``a.b=c`` overrides on top; a folder is the ``folder`` config
    with that folder as stream.path.

    Relative paths in a file are relative to that file, those in overrides to the current folder. Shipped names go
    before folders: ``./demo`` is the folder.

    Raises:
        ConfigError: one line that names the file, the key and the nearest valid one.
    """
    own = Path(name).is_dir() and str(name) not in _shipped()
    file = find("folder" if own else str(name))
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8-sig"))  # Notepad saves a byte order mark
    except tomllib.TOMLDecodeError as fault:
        raise ConfigError(f"{file}: not valid TOML: {fault}; mend that line") from None
    except RecursionError:
        raise ConfigError(f"{file}: not valid TOML: nested too deeply; make it flat") from None
    except (OSError, UnicodeDecodeError) as fault:
        raise ConfigError(f"{file}: cannot be read ({fault}); give a TOML file in UTF-8") from None
    if own:
        values["stream"]["path"] = os.path.abspath(name)
    _anchor(values, file.parent, str(file))
    origin = _override(values, overrides)
    _anchor(values, Path.cwd(), str(file), origin)
    return build(values, str(file), origin)


def build(values: dict[str, Any], where: str = "config", origin: dict[str, str] | None = None) -> Config:
    """Validate a table. ``where`` begins the messages; ``origin`` maps keys that came from elsewhere."""
    try:
        config = Config.model_validate(values)
    except ValidationError as fault:
        key, message = explain(fault.errors()[0])
        raise ConfigError(f"{_source(key, where, origin)}: {message}") from None
    if config.stream.on_broken == "skip" and not config.stream.check:
        raise ConfigError(
            f'{_source("stream.on_broken", where, origin)}: stream.on_broken: "skip" needs stream.check = true: '
            "the check is what finds broken files"
        )
    from mmcl_fast.methods import make_options

    try:
        options = make_options(config.method.name, config.method.options)
    except ConfigError as fault:
        key = re.split(r"[\s:]", str(fault), maxsplit=1)[0]
        raise ConfigError(f"{_source(key, where, origin)}: {fault}") from None
    except ValueError as fault:
        raise ConfigError(f"{where}: method.options: {fault}") from None
    method = config.method.model_copy(update={"options": dataclasses.asdict(options)})
    return config.model_copy(update={"method": method})


def read(run: Path, overrides: Sequence[str] = ()) -> Config:
    """The config of a run folder, with ``a.b=c`` overrides on top.

    Raises:
        RunError: config.json is missing or damaged.
    """
    values = {key: value for key, value in _recorded(run).items() if key in Config.model_fields}
    origin = _override(values, overrides)
    _anchor(values, Path.cwd(), str(run / "config.json"), origin)
    return build(values, str(run / "config.json"), origin)


def recorded(run: Path) -> dict[str, Any]:
    """What config.json of a run folder holds, with the keys that were added since at their defaults.

    Raises:
        RunError: config.json is missing or damaged.
        ConfigError: a key that there is no longer, or a value that is no longer taken.
    """
    values = _recorded(run)
    known = {key: value for key, value in values.items() if key in Config.model_fields}
    return values | build(known, str(run / "config.json")).model_dump(mode="json")


def check_data(run: Path, fingerprint: str) -> None:
    """Raises RunError unless ``fingerprint`` (``Stream.fingerprint``) is that of the data the run learned."""
    found = _recorded(run).get("stream_fingerprint")
    if not isinstance(found, str):
        raise RunError(f"{run / 'config.json'}: no stream_fingerprint in it; restore it from a copy")
    if found != fingerprint:
        raise RunError(
            f"{run / 'config.json'}: the data have changed since the run (files added, removed, renamed or "
            "moved to another split or class); restore them as they were, or train a new run"
        )


def _recorded(run: Path) -> dict[str, Any]:
    values = read_object(run / "config.json", "restore it from a copy")
    if values is None:
        raise RunError(f"{run}: no config.json in it; give a folder that mmcl-fast train wrote")
    return values


def read_object(file: Path, advice: str) -> dict[str, Any] | None:
    """The JSON object in a file of a run folder, or None where there is no file; RunError with the advice."""
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as fault:
        raise RunError(f"{file}: not readable as JSON ({fault}); {advice}") from None
    if not isinstance(values, dict):
        raise RunError(f"{file}: not a JSON object; {advice}")
    return values


def find(name: str) -> Path:
    """The file of a shipped name or a path; ConfigError lists what ships."""
    if Path(name).is_file():
        return Path(name)
    shipped = _shipped()
    if name in shipped:
        return shipped[name]
    known = ", ".join(shipped)
    if name.endswith(".toml") or "/" in name:
        raise ConfigError(f"{name}: no such file; give a TOML file, a folder of files or one of: {known}")
    raise ConfigError(
        f"{name}: no such config; {suggest(name, list(shipped))}, or give the path of a TOML file or of a folder of "
        "your own files"
    )


def _shipped() -> dict[str, Path]:
    return {file.stem: file for file in sorted(SHIPPED.glob("*.toml"))}


def parse_override(text: str) -> tuple[str, Any]:
    """``a.b=c`` -> ("a.b", c): c as TOML where it is TOML, else as a string."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
        raise ConfigError(f"--set {text}: expected key=value, for example --set train.seed=1")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return key, value.strip()
    return key, parsed["value"] if len(parsed) == 1 else value.strip()


def explain(error: Any) -> tuple[str, str]:
    """(key, message) of one pydantic error, in our words."""
    path: list[str] = []
    model: type[Section] = Config
    field = None
    for part in error["loc"]:
        path.append(str(part))
        field = model.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, Section)):
            break
        model = field.annotation
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        table = f"[{'.'.join(path[:-1])}] has" if path[:-1] else "a config has"
        return key, f"{key}: {table} no such key; {suggest(path[-1], list(model.model_fields))}"
    expected = field.description if field is not None and field.description else error["msg"]
    given = json.dumps(error["input"], default=str, ensure_ascii=False)
    return key, f"{key}: expected {expected}, got {given if len(given) <= 80 else given[:77] + '...'}"


def _source(key: str, where: str, origin: dict[str, str] | None) -> str:
    """Where a key was written: the override that set it or something below it, else ``where``."""
    for given, text in (origin or {}).items():
        if given == key or given.startswith(key + "."):
            return text
    return where


def _override(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, str]:
    """Lay overrides on a table; returns where each of their keys was written."""
    origin = {}
    for text in overrides:
        key, value = parse_override(text)
        _put(values, key, value, f"--set {text}")
        origin[key] = f"--set {text}"
    return origin


def _put(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    *tables, last = key.split(".")
    for i, name in enumerate(tables):
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: {'.'.join(tables[: i + 1])} is not a table")
    values[last] = value


def _anchor(values: dict[str, Any], folder: Path, where: str, origin: dict[str, str] | None = None) -> None:
    """Make relative paths absolute, from ``folder``. Raises ConfigError naming the key."""
    for section, table, key in _paths(values):
        try:
            if "\0" in table[key]:
                raise ValueError("embedded null byte")
            table[key] = str((folder / Path(table[key]).expanduser()).resolve())
        except (OSError, ValueError, RuntimeError) as fault:  # RuntimeError: ~nobody, a loop of links
            name = f"{section}.{key}"
            raise ConfigError(
                f"{_source(name, where, origin)}: {name}: {table[key]!r} is not a path ({fault}); correct it"
            ) from None


def _paths(values: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    stream = values.get("stream")
    tars = stream.get("path") if isinstance(stream, dict) else None
    if isinstance(tars, dict):
        for split in tars:
            if isinstance(tars[split], str):
                yield "stream.path", tars, split
    datasets = stream.get("datasets") if isinstance(stream, dict) else None
    for modality, table in datasets.items() if isinstance(datasets, dict) else ():
        for key in ("path", "classes") if isinstance(table, dict) else ():
            if isinstance(table.get(key), str) and table[key] != "none":
                yield f"stream.datasets.{modality}", table, key
    for section, key in (("stream", "path"), ("train", "cache"), ("encoder", "name")):
        own = values.get(section)
        if not isinstance(own, dict) or not isinstance(own.get(key), str) or own[key] == "none":
            continue
        if key == "cache" and own[key] == "auto":
            continue
        # "owner/model" is a hub name; a folder says so by its beginning.
        if key != "name" or own[key].startswith((".", "/", "~")):
            yield section, own, key
