"""The states of torch's global random number generators, saved and restored."""

from __future__ import annotations

import torch
from torch import Tensor

PREFIX = "generator/"  # begins their names among a checkpoint's tensors


def get_random_states() -> dict[str, Tensor]:
    """Return the state of the CPU's generator, and of each GPU's where CUDA is in use, by name."""
    states = {f"{PREFIX}cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states |= {f"{PREFIX}cuda:{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    return states


def set_random_states(tensors: dict[str, Tensor]) -> None:
    """Restore the states that :func:`get_random_states` returned.

    Args:
        tensors: may hold other tensors too. The state of a GPU that this machine lacks is passed over.
    """
    for key, state in tensors.items():
        if not key.startswith(PREFIX):
            continue
        kind, _, number = key.removeprefix(PREFIX).partition(":")
        if kind == "cpu":
            torch.set_rng_state(state)
        elif int(number or 0) < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, int(number or 0))
