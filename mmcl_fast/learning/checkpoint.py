"""Checkpoints: folders with safetensors for tensors, JSON for the rest, and a manifest of checksums; never pickle."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from glob import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmcl_fast import atomic_files
from mmcl_fast.errors import RunError

TENSORS, STATE, MANIFEST = "model.safetensors", "state.json", "manifest.json"
FORMAT = 2
KEYS: dict[str, type | tuple[type, ...]] = {  # keys of a learner's JSON values, and their types
    "encoder": str,
    "fingerprint": str,
    "method": str,
    "options": dict,
    "seed": int,
    "views": int,
    "prompt_blocks": (int, str, type(None)),
    "precision": str,
    "media": dict,
    "tasks": list,
    "keys": list,
    "texts": list,
    "state": dict,
    "calibration": dict,
    "aliases": list,
    "unknown": dict,
}
ADDED: dict[str, Any] = {
    "precision": "auto",
    "media": {},
    "calibration": {},
    "aliases": [],
    "unknown": {},
}  # keys added to format 2: the values where they are missing


def write(folder: Path, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Write a checkpoint under a temporary name, wait for the disk, then rename it to ``folder``.

    A half-written checkpoint is therefore never read. Symmetric float64 matrices are stored as their upper triangles.

    Args:
        folder: a new folder, or an earlier checkpoint, which is replaced.
        tensors: by name.
        values: JSON values.

    Raises:
        RunError: the folder holds other files, or cannot be written. An earlier checkpoint is then as it was.
    """
    from safetensors.torch import save

    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or {f.name for f in folder.iterdir()} - {TENSORS, STATE, MANIFEST}):
        raise RunError(f"{folder}: holds other things than a checkpoint; give an empty or a new folder")
    stored, packed = _pack({k: v.detach().cpu() for k, v in tensors.items()})
    contents = {
        TENSORS: save(stored),
        STATE: json.dumps({**values, "packed": packed}, indent=1, ensure_ascii=False).encode(),
    }
    manifest = {"format": FORMAT, "files": {name: _entry(data) for name, data in contents.items()}}
    contents[MANIFEST] = json.dumps(manifest, indent=1).encode()
    atomic_files.make_folder(folder.parent)
    with atomic_files.explain_write_errors(folder):
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        try:
            for name, data in contents.items():
                atomic_files.write_file(temporary / name, data)
            temporary.chmod(0o755)
            atomic_files.sync_path(temporary)
            if folder.exists():
                aside = tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-old-")
                os.rename(folder, Path(aside) / folder.name)
            os.rename(temporary, folder)
            atomic_files.sync_path(folder.parent)
            for old in folder.parent.glob(f".{escape(folder.name)}-old-*"):
                shutil.rmtree(old)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def read(folder: Path, keys: Mapping[str, Any] = KEYS) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and JSON values of a checkpoint, after a check of size and checksum of each file.

    Args:
        folder: the checkpoint.
        keys: the JSON values that must be there, with their types.

    Raises:
        RunError: a file is missing or broken; the message names it.
    """
    try:
        return _read(folder, keys)
    except OSError as fault:
        raise RunError(
            f"{folder}: can't be read ({fault.strerror}); make it readable, or use an older checkpoint"
        ) from None


def _read(folder: Path, keys: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    if not folder.exists():  # a writer stopped between the two renames of a replacement: the old one is complete
        path = folder.resolve()
        folder = next(path.parent.glob(f".{escape(path.name)}-old-*/{escape(path.name)}"), folder)
    for name in (TENSORS, STATE, MANIFEST):
        if not (folder / name).is_file():
            raise RunError(f"{folder}: no {name}; give a folder that Learner.save or mmcl-fast train wrote")
    manifest = _json(folder / MANIFEST, (folder / MANIFEST).read_bytes())
    if manifest.get("format") != FORMAT:
        raise RunError(
            f"{folder / MANIFEST}: not of format {FORMAT}, which this version reads; use another "
            "checkpoint or another version"
        )
    contents = {}
    for name in (TENSORS, STATE):
        listed = manifest.get("files")
        listed = listed.get(name) if isinstance(listed, dict) else None
        size = listed.get("bytes") if isinstance(listed, dict) else None
        data = (folder / name).read_bytes() if (folder / name).stat().st_size == size else b""
        if listed != _entry(data):
            raise RunError(
                f"{folder / name}: its size or checksum is not the one in {MANIFEST}; use an older checkpoint"
            )
        contents[name] = data
    values = _json(folder / STATE, contents[STATE])
    values = {**{key: value for key, value in ADDED.items() if key in keys}, **values}
    if not all(
        key in values and isinstance(values[key], kind) for key, kind in {**keys, "packed": dict}.items()
    ) or not all(map(_is_class_key, values["keys"] if "keys" in keys else ())):
        raise RunError(f"{folder / STATE}: not the state expected here; use an older checkpoint")
    try:
        tensors = {k: v.clone() for k, v in load(contents[TENSORS]).items()}
        return _unpack(tensors, values.pop("packed")), values
    except (SafetensorError, ValueError, TypeError, KeyError) as fault:
        raise RunError(f"{folder / TENSORS}: not readable as safetensors ({fault}); use an older checkpoint") from None


def find_task_checkpoints(run: Path) -> list[tuple[int, Path]]:
    """Return (number of tasks learned, checkpoint) of a run folder, oldest first, readable or not."""
    return sorted(_numbered(run / "checkpoints", r"task-(\d+)"))


def find_step_checkpoints(run: Path, task: int | None = None) -> list[tuple[int, Path]]:
    """Return (running number, checkpoint) of checkpoints inside a task, oldest first, readable or not.

    Args:
        run: the run folder.
        task: number of the task; None: all tasks.
    """
    number = r"\d+" if task is None else f"{task:03d}"
    return sorted(_numbered(run / "checkpoints", rf"inside-{number}-(\d+)"))


def find_latest(run: Path, broken: list[str] | None = None) -> Path | None:
    """Return the newest readable checkpoint of a task's end in a run folder; None without one.

    Args:
        run: the run folder.
        broken: collects the reason for each newer checkpoint that is not readable.
    """
    for _, folder in reversed(find_task_checkpoints(run)):
        try:
            read(folder)
        except RunError as fault:
            if broken is not None:
                broken.append(str(fault))
            continue
        return folder
    return None


def remove_temporary_folders(run: Path) -> None:
    """Remove what a killed writer left under temporary names. The caller holds the run folder's lock."""
    for folder in (run / "checkpoints").glob(".*-*"):
        shutil.rmtree(folder, ignore_errors=True)


def remove(folder: Path) -> None:
    """Remove a checkpoint. A reader never finds it half removed, as it is renamed first."""
    gone = folder.with_name(f".{folder.name}-gone")
    with atomic_files.explain_write_errors(folder):
        os.rename(folder, gone)
        shutil.rmtree(gone)


def _numbered(folder: Path, pattern: str) -> Iterator[tuple[int, Path]]:
    """Yield (number, path) of the paths whose name matches; the pattern's first group is the number."""
    for path in folder.glob("*-*"):
        match = re.fullmatch(pattern, path.name)
        if match:
            yield int(match[1]), path


def _is_class_key(value: Any) -> bool:
    """Return whether a JSON value is [modality, class name]."""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)


def _entry(data: bytes) -> dict[str, Any]:
    """Return the manifest's entry of a file."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _json(file: Path, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data.decode())  # bytes would be tried as UTF-16 and UTF-32, too
    except (ValueError, RecursionError) as fault:
        raise RunError(f"{file}: not readable as JSON ({fault}); use an older checkpoint") from None
    if not isinstance(value, dict):
        raise RunError(f"{file}: not a JSON object; use an older checkpoint")
    return value


def _pack(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Return the tensors as they are stored, and the number of rows of each matrix stored as its upper triangle."""
    stored, packed = {}, {}
    for key, tensor in tensors.items():
        side = tensor.shape[0] if tensor.dim() == 2 and tensor.shape[0] == tensor.shape[1] > 1 else 0
        if side and tensor.dtype == torch.float64:
            bits = tensor.contiguous().view(torch.int64)  # compared as bits, because 0.0 == -0.0
            if torch.equal(bits, bits.T):
                packed[key], tensor = side, tensor[tuple(torch.triu_indices(side, side))]
        stored[key] = tensor.clone().contiguous()  # safetensors refuses tensors that share memory
    return stored, packed


def _unpack(tensors: dict[str, Tensor], packed: dict[str, int]) -> dict[str, Tensor]:
    """Restore the symmetric matrices that ``_pack`` stored as upper triangles, in place."""
    for key, side in packed.items():
        if tensors[key].numel() != side * (side + 1) // 2:
            raise ValueError(f"{key} is no half of {side} x {side}")
        rows, columns = torch.triu_indices(side, side)
        matrix = tensors[key].new_empty(side, side)
        matrix[rows, columns] = matrix[columns, rows] = tensors[key]
        tensors[key] = matrix
    return tensors
