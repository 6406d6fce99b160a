"""The check whether DALI is installed and works on a device."""

from __future__ import annotations

from functools import lru_cache

import torch

INSTALL = "pip install 'mmcl-fast[dali]' (CUDA 13) or 'mmcl-fast[dali-cu12]' (CUDA 12)"


def available(device: torch.device | str = "cpu") -> str | None:
    """Return why DALI cannot be used for batches on ``device``, and what to do; None: it can be used."""
    device = with_index(device)
    return _available(device.type, device.index or 0)


def with_index(device: torch.device | str) -> torch.device:
    """Return the device with its index; ``cuda`` is the current GPU."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return device


@lru_cache(maxsize=8)
def _available(kind: str, index: int) -> str | None:
    if kind not in ("cpu", "cuda"):
        return f"DALI has no device {kind!r}: use cpu or cuda"
    try:
        from nvidia.dali import Pipeline, fn
    except (ImportError, OSError) as error:
        return f"nvidia.dali does not import ({error}): {INSTALL}"
    if kind == "cpu":
        return None
    if not torch.cuda.is_available():
        return "torch finds no GPU: use the device cpu or the CUDA build of torch"
    try:
        pipe = Pipeline(batch_size=1, num_threads=1, device_id=index, prefetch_queue_depth=1)
        with pipe:
            pipe.set_outputs(fn.zeros(shape=[1], device="gpu"))
        pipe.run()
    except RuntimeError as error:
        return f"DALI cannot use cuda:{index} ({' '.join(str(error).split())[:200]}): update the driver, or {INSTALL}"
    return None
