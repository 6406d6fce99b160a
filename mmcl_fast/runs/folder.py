"""A run's folder before anything is learned into it: whose it is, and what is fixed from the start."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmcl_fast import atomic_files as files
from mmcl_fast import distributed
from mmcl_fast.config import read_run_values
from mmcl_fast.errors import RunError
from mmcl_fast.media.spec import ISOLATION_SETTINGS
from mmcl_fast.streams.broken_samples import broken_samples_to_jsonl
from mmcl_fast.streams.stream import Stream

if TYPE_CHECKING:
    from mmcl_fast.config import Config

FREE = (
    "workers",
    "device",
    "cache",
    "cache_gb",
    "checkpoint_every",
    "keep_checkpoints",
    "track",
)  # [train]: may change
SKIPPED = "skipped.jsonl"  # of a run folder: the samples that its stream is without


def holds_run(out: Path, resume: bool) -> bool:
    """Whether ``out`` holds a run that has begun, and may be gone on with.

    Raises:
        RunError: it holds something else, or a run and ``resume`` is False.
    """
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is a file; give --out the name of a folder")
    try:
        names = {f.name for f in out.iterdir() if not f.name.endswith(".part")} if out.is_dir() else set()
    except OSError as fault:
        raise RunError(f"{out}: can't be read ({fault.strerror}); give another --out") from None
    if names <= {files.LOCK, SKIPPED}:  # all that a run stopped before its config.json leaves
        return False
    if not resume:
        raise RunError(f"{out}: is not empty; give --resume to go on with that run, or another --out")
    if "config.json" not in names:
        raise RunError(f"{out / 'config.json'}: missing, so {out} is no run folder; give another --out")
    return True


def examine(config: Config, out: Path, stream: Stream, resume: bool) -> dict[str, Any]:
    """Check the run folder, writing nothing. Returns what config.json is to hold.

    Raises:
        RunError, ConfigError: it holds a run of another config; a key that its config.json lacks counts as today's
            default.
    """
    settings = {**config.model_dump(mode="json"), "stream_fingerprint": stream.fingerprint}
    if holds_run(out, resume):
        file = out / "config.json"
        difference = first_difference(read_run_values(out), settings)
        if difference:
            raise RunError(f"{file}: another config: {difference}; resume with the same config or give another --out")
    return settings


def begin(out: Path, settings: dict[str, Any], stream: Stream) -> None:
    """Write what is fixed from the start; what is there stays as it is."""
    if not (out / "config.json").exists():
        if stream.skipped or (out / SKIPPED).exists():  # one of a run stopped before its config.json
            files.replace(out / SKIPPED, broken_samples_to_jsonl(stream.skipped).encode())
        files.write_json(out / "config.json", settings)
    if not (out / "environment.json").exists():
        files.write_json(out / "environment.json", environment())


def compared(out: Path, say: Any) -> dict[str, Any]:
    """This session's environment; says what of it differs from the first session's."""
    here = environment()
    try:
        first = json.loads((out / "environment.json").read_text())
    except ValueError:
        raise RunError(
            f"{out / 'environment.json'}: not readable as JSON; restore it from a copy, or remove it"
        ) from None
    apart = [k for k in here if k != "free_disk_gb" and isinstance(first, dict) and first.get(k) != here[k]]
    if apart:
        say(
            f"note: another {', '.join(apart)} than when the run began; numbers may differ from those of a run in one "
            "go"
        )
    return here


def first_difference(old: Any, new: Any, path: str = "") -> str | None:
    """The first key at which two JSON values differ, with both values; None when equal."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            if (path == "train." and key in FREE) or (path == "media." and key in ISOLATION_SETTINGS):
                continue
            found = first_difference(old.get(key), new.get(key), f"{path}{key}.")
            if found:
                return found
        return None
    return None if old == new else f"{path[:-1]} was {json.dumps(old)}, is {json.dumps(new)}"


def environment() -> dict[str, Any]:
    """What this run ran on."""
    from importlib.metadata import PackageNotFoundError, version

    packages = {}
    for name in ("mmcl-fast", "torch", "numpy", "av", "pillow", "simplejpeg", "soundfile", "transformers", "triton"):
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
