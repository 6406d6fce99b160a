"""Both operations once on small shapes with every GPU backend: what compute-sanitizer watches
(benchmarks/gpu.sh)."""

from __future__ import annotations

import torch

from mmcl_fast import ops
from tests.ops.cases import check_loss, check_realign

if __name__ == "__main__":
    for name in ("triton", "cuda"):
        if not ops.backends()[name].available:
            continue
        for dtype in (torch.float32, torch.bfloat16):
            check_loss(name, dtype, 33, 70, 48, grads=("z", "text"), weighted=True, ignored=True, device="cuda")
            check_loss(name, dtype, 33, 700, 48, scale=100.0, device="cuda")
            check_realign(name, dtype, 33, 40, 24, 3, 7, device="cuda")
    torch.cuda.synchronize()
    print("done")
