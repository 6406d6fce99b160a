"""Dtypes, threads and float32 matrix products of the `cpp` backend."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from mmcl_fast._extension import compiled

CHUNK = 1 << 21  # logits of one chunk: 8 MB in float32, so that a chunk stays in the processor's cache
DTYPES = {torch.float32: 0, torch.bfloat16: 1}  # codes of csrc/kernels.h


def threads_for(numbers: int) -> int:
    """Return how many threads a row kernel over so many numbers gets.

    Waking the other threads costs more than the work on 2^17 numbers.
    """
    return torch.get_num_threads() if numbers > 1 << 17 else 1


def _onednn() -> Any:
    """Return oneDNN's float32 product, or None where torch has none.

    It reaches twice the rate of torch.mm (MKL) on AMD with AVX-512, and the same rate on Intel.
    """
    try:
        return torch.ops.mkldnn._linear_pointwise.default if torch.backends.mkldnn.is_available() else None
    except AttributeError:
        return None


LINEAR = _onednn()


@cache
def has_vector_isa() -> bool:
    """Tell whether mmcl_fast._C runs its AVX2 or AVX-512 code here."""
    return compiled().cpu_isa() != "generic"


def has_compiled_products(z: Tensor) -> bool:
    """Tell whether mmcl_fast._C has matrix products for z: float32 with AVX2 or AVX-512."""
    return z.dtype == torch.float32 and has_vector_isa()


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a (m, k) @ b (k, n), for any strides."""
    if LINEAR is None or a.dtype != torch.float32:
        return torch.mm(a, b)
    return LINEAR(a, b.T, None, "none", [], "")
