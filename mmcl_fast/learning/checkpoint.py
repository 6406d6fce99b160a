"""A learner on disk: safetensors for tensors, JSON for the rest, never pickle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from mmcl_fast.errors import RunError

TENSORS, STATE = "model.safetensors", "state.json"
KEYS = {"encoder", "fingerprint", "method", "options", "seed", "views", "prompt_blocks", "tasks", "keys", "texts",
        "state", "sha256"}


def write(folder: Path, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Write to a temporary name beside ``folder``, then rename, so that a half-written one is never read.

    Raises:
        RunError: the folder holds anything but an earlier checkpoint, which would be lost, or can't be written.
    """
    from safetensors.torch import save_file

    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or {f.name for f in folder.iterdir()} - {TENSORS, STATE}):
        raise RunError(f"{folder}: holds other things than a saved learner; give an empty or a new folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    except OSError as fault:
        raise RunError(f"{folder}: can't be written ({fault.strerror}); give another folder") from None
    try:
        save_file({k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}, temporary / TENSORS)
        values = {**values, "sha256": _digest(temporary / TENSORS)}
        (temporary / STATE).write_text(json.dumps(values, indent=1, ensure_ascii=False))
        for name in (TENSORS, STATE):
            with open(temporary / name, "rb") as file:
                os.fsync(file.fileno())
        temporary.chmod(0o755)
        if folder.exists():
            old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-old-")) / folder.name
            os.rename(folder, old)
            os.rename(temporary, folder)
            shutil.rmtree(old.parent)
        else:
            os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Inverse of :func:`write`; RunError names what is missing or broken."""
    from safetensors.torch import load_file

    for name in (TENSORS, STATE):
        if not (folder / name).is_file():
            raise RunError(f"{folder}: no {name}; give a folder that Learner.save or mmcl-fast train wrote")
    try:
        values = json.loads((folder / STATE).read_text())
    except ValueError as fault:
        raise RunError(f"{folder / STATE}: not readable as JSON ({fault}); use an older checkpoint") from None
    if not isinstance(values, dict) or not KEYS <= values.keys():
        raise RunError(f"{folder / STATE}: not the state of a learner; use an older checkpoint")
    if values["sha256"] != _digest(folder / TENSORS):
        raise RunError(f"{folder / TENSORS}: its checksum is not the one in {STATE}; use an older checkpoint")
    return load_file(folder / TENSORS), values


def latest(run: Path) -> Path | None:
    """The newest readable checkpoint of a run folder, or None."""
    for folder in sorted((run / "checkpoints").glob("task-[0-9][0-9][0-9]"), reverse=True):
        try:
            read(folder)
        except RunError:
            continue
        return folder
    return None


def _digest(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else \
            hashlib.sha256(stream.read()).hexdigest()
