"""A model as the contents of a checkpoint, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmcl_fast.errors import RunError
from mmcl_fast.learning import checkpoint
from mmcl_fast.learning.calibration import Calibration
from mmcl_fast.learning.classes import canonical_names
from mmcl_fast.learning.current_version import current_folder
from mmcl_fast.learning.model import Model
from mmcl_fast.learning.random_state import get_random_states
from mmcl_fast.learning.unknown import UnknownScores
from mmcl_fast.methods import Classes
from mmcl_fast.streams.sample import Task, aliases_from_values, aliases_to_values

TASK_KEYS = {"name", "modality", "classes", "class_ids"}  # keys of a task's record


def task_record(task: Task) -> dict[str, Any]:
    """Return the JSON values that a model keeps of a task that it has learned."""
    return {
        "name": task.name,
        "modality": task.modality,
        "classes": list(task.classes),
        "class_ids": [list(c) for c in task.class_ids],
    }


def contents(model: Model) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what a checkpoint of the model holds: tensors and JSON values."""
    tensors, values = model.method.state()
    tensors = {f"method/{k}": v for k, v in tensors.items()} | {"classes": model.classes.embedding}
    known, unknown_values = model.unknown.state()
    tensors |= {f"unknown/{k}": v for k, v in known.items()}
    return tensors | get_random_states(), {
        "encoder": model.encoder.name,
        "fingerprint": model.encoder.fingerprint,
        **model.settings,
        "tasks": model.tasks,
        "keys": [list(k) for k in model.classes.keys],
        "texts": model.classes.texts,
        "state": values,
        "calibration": model.calibration.values(),
        "unknown": unknown_values,
        "aliases": aliases_to_values(model.aliases),
    }


def read_model(folder: Path) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    """Read a saved model, or the newest readable checkpoint of the current version of a run folder.

    Returns:
        The checkpoint's folder, its tensors and its JSON values.

    Raises:
        RunError: a file is missing or broken, or the run has learned no task.
    """
    folder = current_folder(folder)
    if (folder / "checkpoints").is_dir():
        newest = checkpoint.find_latest(folder)
        if newest is None:
            raise RunError(f"{folder}: no finished task in it; run mmcl-fast train with --resume")
        folder = newest
    return folder, *checkpoint.read(folder)


def restore(model: Model, tensors: dict[str, Tensor], values: dict[str, Any], where: Path) -> None:
    """Put a checkpoint's contents into a model with the same encoder and options.

    Args:
        model: the model; its former state is lost, also where an error is raised.
        tensors, values: as ``contents`` returns them.
        where: the checkpoint's folder, for the error's message.

    Raises:
        RunError: the contents are incomplete, or are not of the model's method and encoder.
    """
    misfit = f"{where}: does not fit method {model.method.name}"
    try:
        stored = _load(model, tensors, values)
        state = model.method.state()
        complete = (
            state[0].keys() == stored[0].keys()
            and state[1] == stored[1]
            and len(model.classes.keys) == len(model.classes.texts)
            and model.classes.embedding.shape == (len(model.classes), model.encoder.dim)
            and all(task.keys() == TASK_KEYS for task in model.tasks)
            and all(isinstance(task[key], list) for task in values["tasks"] for key in ("classes", "class_ids"))
        )
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as fault:
        raise RunError(f"{misfit} ({type(fault).__name__}: {fault}); use an older checkpoint") from None
    if not complete:
        raise RunError(f"{misfit}; use an older checkpoint")


def _load(model: Model, tensors: dict[str, Tensor], values: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load the contents into the model; return the method's state as it was loaded."""
    device = model.encoder.device
    stored = {
        # float64 tensors are sums of moments, which methods keep on the CPU
        k.removeprefix("method/"): v.to(device) if v.dtype != torch.float64 else v
        for k, v in tensors.items()
        if k.startswith("method/")
    }
    state = model.method.migrate_state(stored, values["state"])
    model.method.load_state(*state)
    keys, model.tasks = canonical_names(values["keys"], values["tasks"])
    model.calibration = Calibration.from_values(values["calibration"])
    known = {k.removeprefix("unknown/"): v for k, v in tensors.items() if k.startswith("unknown/")}
    model.unknown = UnknownScores.from_state(known, values["unknown"], [task["modality"] for task in model.tasks])
    model.aliases = aliases_from_values(values["aliases"])
    model.classes = Classes(keys, list(values["texts"]), tensors["classes"].to(device))
    return state
