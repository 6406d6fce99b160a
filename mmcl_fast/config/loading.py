"""Load the config of a run: TOML in, a validated ``Config`` out. Errors name the file and the key."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mmcl_fast.config.schema import Config, Section
from mmcl_fast.errors import ConfigError, suggest
from mmcl_fast.option_fields import wrong_value

SHIPPED = Path(__file__).with_name("shipped")  # the folder of configs that ship with the package


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Load a config by shipped name (``demo``), path of a TOML file, or folder of data.

    A folder gives the shipped config ``folder`` with that folder as stream.path. A shipped name goes before a folder of
    the same name; ``./demo`` is the folder. Relative paths in a file start from that file, relative paths in overrides
    from the current folder.

    Args:
        name: a shipped name or a path.
        overrides: changes such as ``"train.seed=1"``; later ones go before earlier ones and before the file.

    Raises:
        ConfigError: one line that names the file, the key, and the nearest valid one.
    """
    is_data = Path(name).is_dir() and str(name) not in _shipped_configs()
    file = find_config("folder" if is_data else str(name))
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8-sig"))  # Notepad saves a byte order mark
    except tomllib.TOMLDecodeError as fault:
        raise ConfigError(f"{file}: not valid TOML: {fault}; correct that line") from None
    except RecursionError:
        raise ConfigError(f"{file}: not valid TOML: nested too deeply; make it flat") from None
    except (OSError, UnicodeDecodeError) as fault:
        raise ConfigError(f"{file}: cannot be read ({fault}); give a TOML file in UTF-8") from None
    if is_data:
        values["stream"]["path"] = os.path.abspath(name)
    make_paths_absolute(values, file.parent, str(file))
    origin = apply_overrides(values, overrides)
    make_paths_absolute(values, Path.cwd(), str(file), origin)
    return build_config(values, str(file), origin)


def build_config(values: dict[str, Any], where: str = "config", origin: dict[str, str] | None = None) -> Config:
    """Validate a table of values, and fill in every default, the method's options included.

    Args:
        values: sections by name, as ``Config.model_dump`` gives them.
        where: the file or command that the values come from; it begins messages.
        origin: key -> where it was written, for keys that come from elsewhere.

    Raises:
        ConfigError: one line that names the key, the values that it accepts, and the value that was given.
    """
    try:
        config = Config.model_validate(values)
    except ValidationError as fault:
        key, message = _explain(fault.errors()[0])
        raise ConfigError(f"{_source(key, where, origin)}: {message}") from None
    if config.stream.on_broken == "skip" and not config.stream.check:
        raise ConfigError(
            f'{_source("stream.on_broken", where, origin)}: stream.on_broken: "skip" needs stream.check = true: '
            "the check is what finds broken files"
        )
    from mmcl_fast.methods import make_options, option_values

    try:
        options = make_options(config.method.name, config.method.options)
    except ConfigError as fault:
        key = re.split(r"[\s:]", str(fault), maxsplit=1)[0]
        raise ConfigError(f"{_source(key, where, origin)}: {fault}") from None
    method = config.method.model_copy(update={"options": option_values(options)})
    return config.model_copy(update={"method": method})


def find_config(name: str) -> Path:
    """Return the file of a shipped name or a path.

    Raises:
        ConfigError: there is none; the message lists the shipped names.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = _shipped_configs()
    if name in shipped:
        return shipped[name]
    known = ", ".join(shipped)
    if name.endswith(".toml") or "/" in name:
        raise ConfigError(f"{name}: no such file; give a TOML file, a folder of files or one of: {known}")
    raise ConfigError(
        f"{name}: no such config; {suggest(name, list(shipped))}, or give the path of a TOML file or of a folder of "
        "your own files"
    )


def _shipped_configs() -> dict[str, Path]:
    """Name -> file of the configs that ship with the package."""
    return {file.stem: file for file in sorted(SHIPPED.glob("*.toml"))}


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``a.b=c`` into ``"a.b"`` and c; c is read as TOML where it is valid TOML, else it is a string.

    Raises:
        ConfigError: there is no ``=``, or the key is malformed.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
        raise ConfigError(f"--set {text}: expected key=value, for example --set train.seed=1")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return key, value.strip()
    return key, parsed["value"] if len(parsed) == 1 else value.strip()


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, str]:
    """Write overrides such as ``"train.seed=1"`` into a table of values, in place.

    Returns:
        key -> ``--set ...``, where it was written.

    Raises:
        ConfigError: an override is malformed, or its key goes below one that is not a table.
    """
    origin = {}
    for text in overrides:
        key, value = parse_override(text)
        origin[key] = f"--set {text}"
        *tables, last = key.split(".")
        table = values
        for i, name in enumerate(tables):
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise ConfigError(f"--set {text}: {'.'.join(tables[: i + 1])} is not a table")
        table.pop(last, None)  # now the last key: of an option's two names, the later one counts
        table[last] = value
    return origin


def make_paths_absolute(values: dict[str, Any], folder: Path, where: str, origin: dict[str, str] | None = None) -> None:
    """Make the relative paths in a table of values absolute, in place. They start from ``folder``.

    Raises:
        ConfigError: names the key of a value that can't be a path. ``where``, ``origin``: as in ``build_config``.
    """
    for section, table, key in _path_keys(values):
        try:
            if "\0" in table[key]:
                raise ValueError("embedded null byte")
            table[key] = str((folder / Path(table[key]).expanduser()).resolve())
        except (OSError, ValueError, RuntimeError) as fault:  # RuntimeError: ~nobody, a loop of links
            name = f"{section}.{key}"
            raise ConfigError(
                f"{_source(name, where, origin)}: {name}: {table[key]!r} is not a path ({fault}); correct it"
            ) from None


def _path_keys(values: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield (section, table, key) of every path in a table of values that is not validated yet."""
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
        table = values.get(section)
        if not isinstance(table, dict) or not isinstance(table.get(key), str) or table[key] == "none":
            continue
        if key == "cache" and table[key] == "auto":
            continue
        # "owner/model" is a hub name; a folder says so by its beginning.
        if key != "name" or table[key].startswith((".", "/", "~")):
            yield section, table, key


def _explain(error: Any) -> tuple[str, str]:
    """Return (key, message) of one pydantic error."""
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
    return key, wrong_value(key, field, error)


def _source(key: str, where: str, origin: dict[str, str] | None) -> str:
    """Return where a key was written: the override of that key or of a key below it, else ``where``."""
    for given, text in (origin or {}).items():
        if given == key or given.startswith(key + "."):
            return text
    return where
