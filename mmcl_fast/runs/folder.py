"""A run's folder before anything is learned into it: whether it may be used, and what is fixed from the start."""

from __future__ import annotations

import gzip
import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmcl_fast import atomic_files, distributed
from mmcl_fast.config.run_config import read_run_values
from mmcl_fast.errors import RunError
from mmcl_fast.learning.current_version import POINTER
from mmcl_fast.media.spec import ISOLATION_SETTINGS
from mmcl_fast.streams.broken_samples import broken_samples_to_jsonl
from mmcl_fast.streams.stream import Stream

if TYPE_CHECKING:
    from mmcl_fast.config import Config

# Keys of [train] that a resumed run may change: they do not change what is learned.
CHANGEABLE = (
    "workers",
    "device",
    "cache",
    "cache_gb",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_test_gb",
    "private",
    "track",
)
GROUPS_FILE = "groups.json.gz"  # of the samples of its stream, where a share of them is held out
SKIPPED = "skipped.jsonl"  # the file of a run folder that lists the samples left out of its stream
PACKAGES = ("mmcl-fast", "torch", "numpy", "av", "pillow", "simplejpeg", "soundfile", "transformers", "triton")


def holds_run(out: Path, resume: bool) -> bool:
    """Return whether ``out`` holds a run that has begun.

    Raises:
        RunError: ``out`` holds something else, or a run and ``resume`` is False.
    """
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is a file; give --out the name of a folder")
    try:
        names = {f.name for f in out.iterdir() if not f.name.endswith(".part")} if out.is_dir() else set()
    except OSError as fault:
        raise RunError(f"{out}: can't be read ({fault.strerror}); give another --out") from None
    if names <= {atomic_files.LOCK, SKIPPED, GROUPS_FILE}:  # a run stopped before its config.json leaves no more
        return False
    if not resume:
        raise RunError(f"{out}: is not empty; give --resume to go on with that run, or another --out")
    if POINTER in names and "checkpoints" not in names:
        raise RunError(f"{out}: version 1 was removed; teach the current version more with mmcl-fast learn {out} DATA")
    if "config.json" not in names:
        raise RunError(f"{out / 'config.json'}: missing, so {out} is no run folder; give another --out")
    return True


def check_run_folder(config: Config, out: Path, stream: Stream, resume: bool) -> dict[str, Any]:
    """Check that ``out`` is empty or holds a run of this config and stream; write nothing.

    Keys of ``CHANGEABLE`` and the limits of decoding workers may differ. A key that the stored config.json lacks counts
    as today's default.

    Returns:
        The values that config.json is to hold.

    Raises:
        RunError: ``out`` holds a run of another config, or a run and ``resume`` is False, or something else.
        ConfigError: the stored config is wrong.
    """
    settings = {**config.model_dump(mode="json"), "stream_fingerprint": stream.fingerprint}
    if holds_run(out, resume):
        difference = first_difference(read_run_values(out), settings)
        if difference:
            file = out / "config.json"
            raise RunError(f"{file}: another config: {difference}; resume with the same config or give another --out")
    return settings


def write_config(out: Path, settings: dict[str, Any], stream: Stream) -> None:
    """Write config.json, the groups and the skipped samples, unless config.json is there already."""
    if not (out / "config.json").exists():
        # A file without a config.json is left from a run that was stopped before it began.
        if stream.groups or (out / GROUPS_FILE).exists():
            text = json.dumps(stream.groups, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")
            atomic_files.replace_file(out / GROUPS_FILE, gzip.compress(text, mtime=0))
        if stream.skipped or (out / SKIPPED).exists():
            atomic_files.replace_file(out / SKIPPED, broken_samples_to_jsonl(stream.skipped).encode())
        atomic_files.write_json(out / "config.json", settings)


def write_run_start(out: Path, settings: dict[str, Any], stream: Stream) -> None:
    """Write what ``write_config`` writes, and environment.json, each unless it is there already."""
    write_config(out, settings, stream)
    if not (out / "environment.json").exists():
        atomic_files.write_json(out / "environment.json", describe_environment())


def read_groups(run: Path) -> dict[str, str]:
    """Return sample key -> group as a run has found it; nothing of a run without groups, or of an older version.

    Raises:
        RunError: the file is damaged.
    """
    file = run / GROUPS_FILE
    if not file.is_file():
        return {}
    try:
        values = json.loads(gzip.decompress(file.read_bytes()).decode(errors="surrogatepass"))
        return {str(key): str(name) for key, name in values.items()}
    except (OSError, EOFError, ValueError, AttributeError, RecursionError) as fault:
        raise RunError(f"{file}: not readable ({fault}); restore it from a copy") from None


def compare_environment(out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Return this session's environment; ``say`` what differs from the first session's.

    Raises:
        RunError: environment.json is damaged.
    """
    current = describe_environment()
    try:
        first = json.loads((out / "environment.json").read_text())
    except ValueError:
        raise RunError(
            f"{out / 'environment.json'}: not readable as JSON; restore it from a copy, or remove it"
        ) from None
    changed = [k for k in current if k != "free_disk_gb" and isinstance(first, dict) and first.get(k) != current[k]]
    if changed:
        say(
            f"note: another {', '.join(changed)} than when the run began; numbers may differ from those of a run in "
            "one go"
        )
    return current


def first_difference(old: Any, new: Any, path: str = "") -> str | None:
    """Return the first key at which two JSON values differ, with both values; None where they are equal.

    Keys that a run may change (``CHANGEABLE``, and limits of decoding workers) are passed over.

    Example: ``"train.seed was 0, is 1"``.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            if (path == "train." and key in CHANGEABLE) or (path == "media." and key in ISOLATION_SETTINGS):
                continue
            found = first_difference(old.get(key), new.get(key), f"{path}{key}.")
            if found:
                return found
        return None
    return None if old == new else f"{path[:-1]} was {json.dumps(old)}, is {json.dumps(new)}"


def describe_environment() -> dict[str, Any]:
    """Return the versions, processors and free disk space of this session, as JSON values."""
    from importlib.metadata import PackageNotFoundError, version

    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "processes": distributed.world_size(),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "free_disk_gb": round(shutil.disk_usage(".").free / 1e9, 1),
    }
