"""The states of torch's random number generators, saved and restored."""

from __future__ import annotations

import torch
from torch import Tensor


def generators() -> dict[str, Tensor]:
    """The states of torch's own generators."""
    states = {"generator/cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states |= {f"generator/cuda:{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    return states


def set_generators(states: dict[str, Tensor]) -> None:
    """Inverse of :func:`generators`; a GPU that is not here is left out."""
    for key, state in states.items():
        kind, _, number = key.removeprefix("generator/").partition(":")
        if kind == "cpu":
            torch.set_rng_state(state)
        elif int(number or 0) < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, int(number or 0))
