"""The `cuda` backend: kernels of mmcl_fast._C.cuda on the current stream of the tensors' device."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mmcl_fast._extension import load
from mmcl_fast.ops.backends.gpu import GpuBackend, LossInputs, RowOutputs, RowSums, RunningSums, is_hopper
from mmcl_fast.ops.one_pass import WIDTHS, cluster_shape, padded_width, share_tiles

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # codes of csrc/cuda/kernels.h
LIB: Any = getattr(load()[0], "cuda", None)


def _launch(kernel: Callable[..., int], x: Tensor, *args: object) -> None:
    """Launch on the current stream of x's device, which gpu.py has made the current one; x gives the dtype code."""
    code = kernel(*args, DTYPES[x.dtype], torch.cuda.current_stream(x.device).cuda_stream)
    if code:
        raise RuntimeError(f"mmcl_fast CUDA kernel: {LIB.error(code)} (cudaError {code})")


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _scale(scale: float | Tensor) -> tuple[int, float]:
    """Return (address of a float32, value); the kernels take the value where the address is 0."""
    return (scale.data_ptr(), 0.0) if isinstance(scale, Tensor) else (0, scale)


@cache
def _clusters(index: int, width: int, row_blocks: int, dtype: torch.dtype) -> int:
    """Return how many clusters of the one-pass kernel the device runs at once; gpu.py has made it the current one."""
    count = LIB.one_pass_clusters(width, row_blocks, DTYPES[dtype])
    if count < 1:
        raise RuntimeError(f"mmcl_fast CUDA kernel: {LIB.error(-count)} (cudaError {-count})")
    return count


class CudaBackend(GpuBackend):
    """Launches of csrc/cuda; each argument list has the order of a struct in csrc/cuda/kernels.h."""

    name = "cuda"

    def row_norm(self, x: Tensor) -> Tensor:
        inv = x.new_empty(x.shape[0], dtype=torch.float32)
        _launch(LIB.row_norm, x, x.data_ptr(), x.stride(0), inv.data_ptr(), *x.shape)
        return inv

    def one_pass_fits(self, z: Tensor, text: Tensor) -> bool:
        """Half precision on Hopper, up to 1024 wide, rows at multiples of 16 bytes."""
        aligned = all(x.stride(0) % 8 == 0 and x.data_ptr() % 16 == 0 for x in (z, text))
        fits = z.dtype != torch.float32 and aligned and z.shape[1] <= max(WIDTHS) and z.shape[1] % 8 == 0
        return fits and is_hopper(z.device) and hasattr(LIB, "one_pass")

    def one_pass(self, inputs: LossInputs) -> RowSums:
        z, text, labels, inv_z, inv_t, scale, *_ = inputs
        (b, d), c = z.shape, text.shape[0]
        row_blocks, _ = cluster_shape(b, d)
        shares = share_tiles(b, c, d, _clusters(z.device.index, padded_width(d), row_blocks, z.dtype))
        out = z.new_empty(shares.slots, b, d, dtype=torch.float32)
        # A sum of 0 marks a slot that nobody fills.
        row_max, row_sum = z.new_zeros(2, shares.slots, b, dtype=torch.float32)
        label_logit = z.new_empty(b, dtype=torch.float32)
        _launch(
            LIB.one_pass, z, z.data_ptr(), z.stride(0), text.data_ptr(), text.stride(0), labels.data_ptr(),
            inv_z.data_ptr(), inv_t.data_ptr(), *_scale(scale),
            out.data_ptr(), row_max.data_ptr(), row_sum.data_ptr(), label_logit.data_ptr(), b, c, d,
            shares.share, shares.row_blocks,
        )  # fmt: skip
        return RowSums(out, row_max, row_sum, label_logit)

    def exp_rows(self, x: Tensor, inputs: LossInputs, first: int, sums: RunningSums) -> None:
        _, _, labels, inv_z, inv_t, scale, *_ = inputs
        row_max, row_sum, row_fix, label_logit = sums
        _launch(
            LIB.exp_rows, x, x.data_ptr(), x.stride(0), *x.shape, labels.data_ptr(), first,
            inv_z.data_ptr(), inv_t.data_ptr() + 4 * first, *_scale(scale), first == 0,
            row_max.data_ptr(), row_sum.data_ptr(), row_fix.data_ptr(), label_logit.data_ptr(),
        )  # fmt: skip

    def finish(self, inputs: LossInputs, sums: RowSums, out: RowOutputs) -> None:
        z, text, labels, inv_z, inv_t, scale, mean_text, label_smoothing, ignore_index = inputs
        o, row_max, row_sum, label_logit = sums
        loss, dz, dscale, ratio, label_coef = out
        _launch(
            LIB.finish, z, o.data_ptr(), z.data_ptr(), z.stride(0), text.data_ptr(), text.stride(0),
            _address(mean_text), labels.data_ptr(), inv_z.data_ptr(), inv_t.data_ptr(), *_scale(scale),
            row_max.data_ptr(), row_sum.data_ptr(), label_logit.data_ptr(),
            loss.data_ptr(), _address(dz), dscale.data_ptr(), _address(ratio), _address(label_coef),
            z.shape[0], text.shape[0], z.shape[1], ignore_index, label_smoothing, o.shape[0],
        )  # fmt: skip

    def shift_normalise(self, z: Tensor, h: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        (b, d), m, scaled = z.shape, gate.shape[1], torch.empty_like(h)
        e, inv = z.new_empty(b, d), z.new_empty(b, dtype=torch.float32)
        rank = h.shape[1] // m
        _launch(LIB.gate_rows, z, h.data_ptr(), gate.data_ptr(), gate.stride(0), scaled.data_ptr(), b, m, rank)
        shift = torch.mm(scaled, up)
        _launch(LIB.add_norm, z, z.data_ptr(), z.stride(0), shift.data_ptr(), e.data_ptr(), inv.data_ptr(), b, d)
        return e, inv

    def project(self, de: Tensor, e: Tensor, inv: Tensor) -> Tensor:
        dv = torch.empty_like(e)
        _launch(LIB.project, e, de.data_ptr(), de.stride(0), e.data_ptr(), inv.data_ptr(), dv.data_ptr(), *e.shape)
        return dv

    def gate_back(self, dh: Tensor, h: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        (b, m), scaled, dgate = gate.shape, torch.empty_like(h), h.new_empty(gate.shape)
        _launch(
            LIB.gate_back, h, dh.data_ptr(), h.data_ptr(), gate.data_ptr(), gate.stride(0), scaled.data_ptr(),
            dgate.data_ptr(), b, m, h.shape[1] // m,
        )  # fmt: skip
        return scaled, dgate


BACKEND = CudaBackend()
