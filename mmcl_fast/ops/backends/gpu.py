"""The order of work on a GPU, shared by the `triton` and `cuda` backends: their kernels around library products.

Nothing here waits for the device, so a CUDA graph can capture every call.

With the texts frozen, in half precision and up to a width, one kernel walks over all classes (``one_pass``).
Otherwise, for each chunk of rows and classes::

    x = z t'                 library product
    x <- exp(s x / |z| |t| - max) / |t|     exp_rows, in place
    o += x t                 library product

Last, ``finish`` turns o into the loss and its gradients.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from mmcl_fast.ops.arguments import (
    NEEDS_Z,
    AlignmentArguments,
    AlignmentResult,
    RealignArguments,
    RealignGradients,
    RealignResult,
    gradient_dtype,
)
from mmcl_fast.ops.backends.common import (
    RowResult,
    TextGradientChunk,
    add_text_gradient,
    concatenate_modalities,
    finish_text_gradient,
    mean_unit,
    reduce_rows,
    unit_stride,
)
from mmcl_fast.ops.backends.protocol import Backend

CHUNK_BYTES = 30 << 20  # of logits: half of an H200's level-2 cache
ROWS = 4096
TEXT_ROWS = 2048  # rows of a chunk that needs all classes at once
HALF_SUM = 1 << 15  # this many exponentials of at most 1 have a sum that float16 can hold


class LossInputs(NamedTuple):
    """Tensors and options that the kernels of the loss read; all rows and classes, or a chunk of them."""

    z: Tensor  # (B, D), unit column stride
    text: Tensor  # (C, D), unit column stride
    labels: Tensor  # (B,) int64, classes of the whole text
    inv_z: Tensor  # (B,) float32, 1 / |z|
    inv_t: Tensor  # (C,) float32, 1 / |t|
    scale: float | Tensor  # a tensor is 0-d float32 on the device
    mean_text: Tensor | None  # (D,) float32, mean of the unit texts; None without label smoothing
    label_smoothing: float
    ignore_index: int

    def rows(self, r: slice) -> LossInputs:
        """Return the inputs of a chunk of rows."""
        z, text, labels, inv_z = self[:4]
        return LossInputs(z[r], text, labels[r], inv_z[r], *self[4:])


class RowSums(NamedTuple):
    """Sums over the classes without the label's, for each of S splits of the classes."""

    weighted_text: Tensor  # (S, B, D) float32, sum_c exp(x_c - row_max) t_c / |t_c|
    row_max: Tensor  # (S, B) float32
    row_sum: Tensor  # (S, B) float32, sum_c exp(x_c - row_max)
    label_logit: Tensor  # (B,) float32


class RunningSums(NamedTuple):
    """Statistics of a chunk of rows, which ``exp_rows`` carries from one chunk of classes to the next."""

    row_max: Tensor  # (B,) float32
    row_sum: Tensor  # (B,) float32
    row_fix: Tensor  # (B,) float32, factor of sums that were made with an earlier maximum
    label_logit: Tensor  # (B,) float32


class RowOutputs(NamedTuple):
    """Tensors that ``finish`` fills. dz, ratio and label_coef may be None; the latter two may be longer than B."""

    loss: Tensor  # (B,) float32
    dz: Tensor | None  # (B, D) in gradient_dtype
    dscale: Tensor  # (B,) float32
    ratio: Tensor | None  # (B,) float32, (1 - p_label) / row_sum
    label_coef: Tensor | None  # (B,) float32, smoothing - (1 - p_label)

    def rows(self, r: slice) -> RowOutputs:
        """Return the outputs of a chunk of rows; ratio and label_coef belong to the chunk anyway."""
        loss, dz, dscale, ratio, label_coef = self
        return RowOutputs(loss[r], None if dz is None else dz[r], dscale[r], ratio, label_coef)


def device_of(x: Tensor) -> AbstractContextManager:
    """Make x's GPU the current one: kernels launch on the current device, wherever their tensors are."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()


@cache
def is_hopper(device: torch.device) -> bool:
    """Tell whether the device is a GPU with Hopper's matrix instructions."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9


def _logits(z: Tensor, text: Tensor) -> Tensor:
    """Return z text^T, for float16 in float32: its range ends at 65504, and its rounding would be 2 % of a probability.

    z (m, D), text (n, D).
    """
    if z.dtype != torch.float16:
        return torch.mm(z, text.T)
    if z.device.type == "cuda":
        return torch.mm(z, text.T, out_dtype=torch.float32)
    return torch.mm(z.float(), text.T.float())


def _weighted_text(x: Tensor, text: Tensor) -> Tensor:
    """Return x text (m, D); for float16 and many classes in parts that float16 can hold, summed in float32."""
    if x.dtype != torch.float16 or len(text) <= HALF_SUM:
        return torch.mm(x, text)
    parts = zip(x.split(HALF_SUM, dim=1), text.split(HALF_SUM), strict=True)
    return sum((torch.mm(a, b).float() for a, b in parts), torch.zeros((), device=x.device))


def split_classes(classes: int, row_blocks: int, processors: int) -> tuple[int, int]:
    """Return (splits, classes of each split): every multiprocessor has a block, and a split has 256 classes or more."""
    wanted = max(1, min(processors // row_blocks, classes // 256, 16))
    per_split = -(-classes // wanted)
    return -(-classes // per_split), per_split


class GpuBackend(Backend):
    """Both operations, out of kernels that a subclass launches on the current stream of the tensors' device."""

    @abstractmethod
    def row_norm(self, x: Tensor) -> Tensor:
        """Return 1 / max(|x_i|, 1e-12), (rows,) float32."""

    @abstractmethod
    def one_pass_fits(self, z: Tensor, text: Tensor) -> bool:
        """Tell whether ``one_pass`` takes these tensors on this GPU."""

    @abstractmethod
    def one_pass(self, inputs: LossInputs) -> RowSums:
        """Compute both matrix products of the loss in one kernel."""

    @abstractmethod
    def exp_rows(self, x: Tensor, inputs: LossInputs, first: int, sums: RunningSums) -> None:
        """Turn a chunk of logits into exponentials in place: x <- exp(s x / |z| |t| - row_max) / |t|, 0 at the label.

        x (m, n): rows of ``inputs`` times the n classes from ``first`` on. Classes from 0 on start new sums.
        """

    @abstractmethod
    def finish(self, inputs: LossInputs, sums: RowSums, out: RowOutputs) -> None:
        """Fill ``out`` from the sums of all splits; NaN where a label is out of range."""

    @abstractmethod
    def shift_normalise(self, z: Tensor, h: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        """Return e = normalize(z + (h gate) up) (B, D) and 1 / |v| (B,); h (B, M r), gate (B, M), up (M r, D)."""

    @abstractmethod
    def project(self, de: Tensor, e: Tensor, inv: Tensor) -> Tensor:
        """Return dv = inv (de - (de . e) e), (B, D)."""

    @abstractmethod
    def gate_back(self, dh: Tensor, h: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        """Return h gate (B, M r) and the gate's gradient (B, M); dh is multiplied by the gate in place."""

    def alignment_loss(self, a: AlignmentArguments) -> AlignmentResult:
        return reduce_rows(a, self.alignment_rows)

    def alignment_rows(self, a: AlignmentArguments, coef: Tensor | None) -> RowResult:
        """Return losses and gradients of single rows.

        coef: (B,), the factor of each row in the loss, or None where text is frozen.
        """
        with device_of(a.z):
            z, text = unit_stride(a.z), unit_stride(a.text)
            inv_z, inv_t = self.row_norm(z), self.row_norm(text)
            # The kernels read a 0-d float32 on the device: its value on the host would mean waiting.
            scale = a.scale.detach().to(z.device, torch.float32) if isinstance(a.scale, Tensor) else float(a.scale)
            mean = mean_unit(text, inv_t) if a.label_smoothing else None
            inputs = LossInputs(
                z, text, a.labels.contiguous(), inv_z, inv_t, scale, mean, a.label_smoothing, a.ignore_index
            )
            dtype, need_z = gradient_dtype(z.dtype), a.needs & NEEDS_Z
            loss, dscale = torch.empty_like(inv_z), torch.empty_like(inv_z)
            dz = z.new_empty(z.shape if need_z else 0, dtype=dtype)
            out = RowOutputs(loss, dz if need_z else None, dscale, None, None)
            if coef is None and self.one_pass_fits(z, text):
                self.finish(inputs, self.one_pass(inputs), out)
                dtext = z.new_empty(0, dtype=dtype)
            else:
                dtext = self._chunks(inputs, coef, out)
            return RowResult(loss, dz, dtext, dscale)

    def _chunks(self, inputs: LossInputs, coef: Tensor | None, out: RowOutputs) -> Tensor:
        """Fill ``out`` with library products over chunks; return dtext, empty where coef is None."""
        z, text = inputs.z, inputs.text
        (b, d), c, dtype = z.shape, len(text), gradient_dtype(z.dtype)
        dtext = z.new_empty(0, dtype=dtype) if coef is None else z.new_zeros(c, d, dtype=torch.float32)
        rows = min(b, ROWS if coef is None else TEXT_ROWS)
        cols = c if coef is not None else min(c, max(512, CHUNK_BYTES // (rows * dtype.itemsize)))
        row_max, row_sum, row_fix, label_logit, ratio, label_coef = z.new_empty(6, rows, dtype=torch.float32)
        sums = RunningSums(row_max, row_sum, row_fix, label_logit)
        o = row_sum  # a placeholder: the first chunk of classes makes o
        out = out._replace(ratio=ratio, label_coef=label_coef)
        for start in range(0, b, rows):
            # Each slice costs a microsecond: a loss in one chunk has none.
            r = slice(start, start + rows)
            chunk, chunk_out = (inputs, out) if rows == b else (inputs.rows(r), out.rows(r))
            m = len(chunk.z)
            for n in range(0, c, cols):
                t = text if cols == c else text[n : n + cols]
                x = _logits(chunk.z, t)
                self.exp_rows(x, chunk, n, sums)
                x = x.to(z.dtype)
                part = _weighted_text(x, t)
                o = part.float() if n == 0 else torch.addcmul(part, o, row_fix[:m, None])
            self.finish(chunk, RowSums(o[None], row_max[None, :m], row_sum[None, :m], label_logit), chunk_out)
            if coef is not None:
                unit = chunk.z.float() * chunk.inv_z[:, None]
                text_chunk = TextGradientChunk(x, unit, ratio[:m], label_coef[:m], chunk.labels, coef[r])
                add_text_gradient(dtext, text_chunk, inputs.inv_t, inputs.label_smoothing, torch.mm)
        return dtext if coef is None else finish_text_gradient(dtext, text, inputs.inv_t, inputs.scale)

    def realign(self, a: RealignArguments) -> RealignResult:
        with device_of(a.z):
            z, gate = unit_stride(a.z), unit_stride(a.gate)
            down, up = concatenate_modalities(a.down, a.up)
            h = torch.mm(z if a.source is None else a.source, down)
            e, inv = self.shift_normalise(z, h, gate, up)
            return RealignResult(e, inv, h)

    def realign_backward(self, de: Tensor, result: RealignResult, a: RealignArguments, needs: int) -> RealignGradients:
        with device_of(de):
            de, gate, none = unit_stride(de), unit_stride(a.gate), de.new_empty(0)
            u = a.z if a.source is None else a.source
            m, du, r = a.down.shape
            need_z, need_gate, need_down, need_up, need_source = (bool(needs & 1 << k) for k in range(5))
            down, up = concatenate_modalities(a.down, a.up)
            dv = self.project(de, result.e, result.inv)
            dh = torch.mm(dv, up.T)
            scaled, dgate = self.gate_back(dh, result.h, gate)
            ddown = torch.mm(u.T, dh).view(du, m, r).permute(1, 0, 2).contiguous() if need_down else none
            dup = torch.mm(scaled.T, dv).view(a.up.shape) if need_up else none
            dsource = torch.mm(dh, down.T) if need_source else none
            dz = (dv if a.source is not None else torch.addmm(dv, dh, down.T)) if need_z else none
            return dz, dgate if need_gate else none, ddown, dup, dsource
