"""What the `cpp` backend's operations share: the dtypes that the row kernels take, their threads, and products."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from mmcl_fast._extension import compiled

CHUNK = 1 << 21  # numbers of one chunk of logits
DTYPES = {torch.float32: 0, torch.bfloat16: 1}


def threads_for(numbers: int) -> int:
    """Threads for a row kernel over so many numbers: waking the others costs more than 2^17 of them."""
    return torch.get_num_threads() if numbers > 1 << 17 else 1


def _onednn() -> Any:
    """oneDNN's float32 product: twice the rate of torch.mm (MKL) on AMD with AVX-512, equal on Intel."""
    try:
        return torch.ops.mkldnn._linear_pointwise.default if torch.backends.mkldnn.is_available() else None
    except AttributeError:
        return None


LINEAR = _onednn()


@cache
def vectors() -> bool:
    return compiled().cpu_isa() != "generic"


def own_products(z: Tensor) -> bool:
    """Whether mmcl_fast._C has matrix products for this: float32 with AVX2 or AVX-512."""
    return z.dtype == torch.float32 and vectors()


def product(a: Tensor, b: Tensor) -> Tensor:
    """a [m, k] @ b [k, n], for any strides."""
    if LINEAR is None or a.dtype != torch.float32:
        return torch.mm(a, b)
    return LINEAR(a, b.T, None, "none", [], "")
