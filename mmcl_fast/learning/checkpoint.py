"""A learner on disk: safetensors for tensors, JSON for the rest, never pickle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from mmcl_fast.errors import RunError

TENSORS, STATE = "model.safetensors", "state.json"


def write(folder: Path, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Write to a temporary name beside ``folder``, then rename, so that a half-written one is never read."""
    from safetensors.torch import save_file

    temporary = folder.with_name(folder.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file({k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}, temporary / TENSORS)
    values = {**values, "sha256": _digest(temporary / TENSORS)}
    (temporary / STATE).write_text(json.dumps(values, indent=1, ensure_ascii=False))
    for name in (TENSORS, STATE):
        with open(temporary / name, "rb") as file:
            os.fsync(file.fileno())
    if folder.exists():
        old = folder.with_name(folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
        os.rename(temporary, folder)
        shutil.rmtree(old)
    else:
        os.rename(temporary, folder)


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
    if values.get("sha256") != _digest(folder / TENSORS):
        raise RunError(f"{folder / TENSORS}: its checksum is not the one in {STATE}; use an older checkpoint")
    return load_file(folder / TENSORS), values


def latest(run: Path) -> Path | None:
    """The newest readable checkpoint of a run folder, or None."""
    for folder in sorted((run / "checkpoints").glob("task-[0-9][0-9][0-9]*"), reverse=True):
        if folder.suffix:
            continue
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
