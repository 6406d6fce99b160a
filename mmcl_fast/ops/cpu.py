"""The `cpp` backend: torch's matrix products in chunks, and between them the row kernels of mmcl_fast._C.

Column chunks keep the logits in the processor's cache; because every sum over classes is linear in exp(logit - m),
a chunk only adds to what came before. No B x C array is made.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

CHUNK = 1 << 22  # numbers of one chunk of logits
ROWS = 1024
FIXED_MAX = 40.0  # exp(-2 s) is a normal float32 below this scale, so |cos| <= 1 gives the maximum for nothing
DTYPES = {torch.float32: 0, torch.bfloat16: 1}


@cache
def load():  # noqa: ANN201
    """(module, "") or (None, why not)"""
    try:
        from mmcl_fast import _C
    except ImportError as error:
        return None, f"mmcl_fast._C is not there ({error}): install with pip, which compiles it"
    return _C, ""


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 or x.shape[1] == 1 and x.is_contiguous() else x.contiguous()


def _matmul_into(out: Tensor, a: Tensor, b: Tensor, scratch: Tensor | None, add: bool) -> None:
    """out (float32) = a @ b, or += ; half precision products go through scratch so that sums stay in float32."""
    if a.dtype == torch.float32:
        torch.addmm(out, a, b, out=out) if add else torch.mm(a, b, out=out)
    else:
        torch.mm(a, b, out=scratch)
        out.add_(scratch) if add else out.copy_(scratch)


def alignment_rows(z: Tensor, text: Tensor, labels: Tensor, coef: Tensor | None, scale: float, smoothing: float,
                   ignore_index: int, need_z: bool, need_text: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per row: CE [B], dCE/dz [B, D] and dCE/ds [B]; and d(sum_i coef_i CE_i)/d text [C, D] (empty if not needed)."""
    if z.dtype == torch.float16:  # no float16 matrix unit on the CPU: computed in float32
        ce, dz, dtext, ds = alignment_rows(z.float(), text.float(), labels, coef, scale, smoothing, ignore_index,
                                           need_z, need_text)
        return ce, dz.to(z.dtype), dtext.to(z.dtype), ds
    lib, _ = load()
    z, text, labels = _rows(z), _rows(text), labels.contiguous()
    (b, d), c = z.shape, text.shape[0]
    kind, threads, wide = DTYPES[z.dtype], torch.get_num_threads(), torch.float32
    rows = min(b, max(1, CHUNK // c) if need_text else ROWS)
    cols = c if need_text else min(c, max(256, CHUNK // rows))
    fixed = scale <= FIXED_MAX
    ce, ds = z.new_empty(b, dtype=wide), z.new_empty(b, dtype=wide)
    dz = torch.empty_like(z, memory_format=torch.contiguous_format) if need_z else z.new_empty(0)
    stats = z.new_empty(6, rows, dtype=wide)
    top, total, fix, own, ratio, label_coef = (s.data_ptr() for s in stats)
    inv_t, inv_z = z.new_empty(c, dtype=wide), z.new_empty(rows, dtype=wide)
    unit, logits = z.new_empty(rows, d), z.new_empty(rows, cols)
    o = z.new_empty(rows, d, dtype=wide)
    scratch = None if z.dtype == wide else z.new_empty(rows, d)
    lib.row_norm(text.data_ptr(), 0, inv_t.data_ptr(), text.stride(0), 0, c, d, kind, threads)
    mean = (inv_t[None].to(text.dtype) @ text).div(c).float().squeeze(0) if smoothing else None
    if mean is not None and z.dtype != wide:
        mean = (text.float().mul_(inv_t[:, None])).mean(0)
    dtext = z.new_zeros(c, d, dtype=wide) if need_text else z.new_empty(0)
    for r in range(0, b, rows):
        m = min(rows, b - r)
        lib.row_norm(z.data_ptr() + r * z.stride(0) * z.element_size(), unit.data_ptr(), inv_z.data_ptr(),
                     z.stride(0), d, m, d, kind, threads)
        u, acc, y = unit[:m], o[:m], labels.data_ptr() + 8 * r
        if fixed:
            stats[0].fill_(scale)
        for n in range(0, c, cols):
            t = text[n : n + cols]
            x = logits[:m, : t.shape[0]]
            torch.mm(u, t.T, out=x)
            lib.align_chunk(x.data_ptr(), cols, m, t.shape[0], inv_t.data_ptr() + 4 * n, y, n, scale, fixed, n == 0,
                            top, total, fix, own, kind, threads)
            if n and not fixed:
                acc.mul_(stats[2, :m, None])
            _matmul_into(acc, x, t, None if scratch is None else scratch[:m], add=n > 0)
        lib.align_finish(o.data_ptr(), unit.data_ptr(), text.data_ptr(),
                         dz.data_ptr() + r * d * z.element_size() if need_z else 0, d, d, text.stride(0), d, m, d,
                         inv_z.data_ptr(), inv_t.data_ptr(), 0 if mean is None else mean.data_ptr(), y, ignore_index,
                         scale, smoothing, top, total, own, ce.data_ptr() + 4 * r, ds.data_ptr() + 4 * r, ratio,
                         label_coef, kind, threads)
        if need_text:
            _add_text_gradient(dtext, logits[:m], u.float(), stats[4, :m], stats[5, :m], labels[r : r + m],
                               coef[r : r + m], inv_t, smoothing, ignore_index)
    if need_text:
        dtext.mul_(scale)
        along = torch.einsum("cd,cd,c->c", dtext, text.float(), inv_t * inv_t)
        dtext = dtext.sub_(along[:, None] * text).to(text.dtype)
    return ce, dz, dtext, ds


def _add_text_gradient(dtext: Tensor, x: Tensor, unit: Tensor, ratio: Tensor, label_coef: Tensor, labels: Tensor,
                       coef: Tensor, inv_t: Tensor, smoothing: float, ignore_index: int) -> None:
    """dtext_c += sum_i coef_i (p_ic - target_ic) z_i / |t_c|, still to be projected off t_c and scaled."""
    pull = unit * (coef * ratio)[:, None]
    if x.dtype == torch.float32:
        dtext.addmm_(x.T, pull)
    else:
        dtext.add_(x.T @ pull.to(x.dtype))
    valid = labels != ignore_index
    own = torch.where(valid, labels, 0)
    dtext.index_add_(0, own, unit * (coef * label_coef * inv_t[own] * valid)[:, None])
    if smoothing:
        mean = (unit * (coef * valid)[:, None]).sum(0) * (smoothing / inv_t.numel())
        dtext.addr_(inv_t, mean, alpha=-1)


def realign_forward(z: Tensor, gate: Tensor, down: Tensor, up: Tensor, source: Tensor | None
                    ) -> tuple[Tensor, Tensor, Tensor]:
    """e [B, D], 1 / |v| [B] and h = source [down_1 .. down_M] [B, M r]"""
    if z.dtype == torch.float16:
        e, inv, h = realign_forward(*(x if x is None else x.float() for x in (z, gate, down, up, source)))
        return e.to(z.dtype), inv, h.to(z.dtype)
    lib, _ = load()
    z, gate = _rows(z), _rows(gate)
    u = z if source is None else source
    (b, d), (m, du, r) = z.shape, down.shape
    kind, threads, size = DTYPES[z.dtype], torch.get_num_threads(), z.element_size()
    a, w = down.permute(1, 0, 2).reshape(du, m * r), up.reshape(m * r, d)
    e, inv, h = z.new_empty(b, d), z.new_empty(b, dtype=torch.float32), z.new_empty(b, m * r)
    step = min(b, max(64, CHUNK // 8 // d))
    scaled, shift = z.new_empty(step, m * r), z.new_empty(step, d)
    for i in range(0, b, step):
        n = min(step, b - i)
        torch.mm(u[i : i + n], a, out=h[i : i + n])
        lib.gate_rows(h.data_ptr() + i * m * r * size, gate.data_ptr() + i * gate.stride(0) * size,
                      scaled.data_ptr(), m * r, gate.stride(0), m * r, n, m, r, kind, threads)
        torch.mm(scaled[:n], w, out=shift[:n])
        lib.add_norm(z.data_ptr() + i * z.stride(0) * size, shift.data_ptr(), e.data_ptr() + i * d * size,
                     inv.data_ptr() + 4 * i, z.stride(0), d, d, n, d, kind, threads)
    return e, inv, h


def realign_backward(de: Tensor, e: Tensor, inv: Tensor, h: Tensor, z: Tensor, gate: Tensor, down: Tensor, up: Tensor,
                     source: Tensor | None, need: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of z, gate, down, up, source; bit k of need asks for the k-th, the others come back empty."""
    if z.dtype == torch.float16:
        grads = realign_backward(*(x if x is None else x.float() for x in (de, e, inv, h, z, gate, down, up, source)),
                                 need)
        return tuple(g.to(z.dtype) for g in grads)
    lib, _ = load()
    de, gate = _rows(de), _rows(gate)
    u = z if source is None else source
    (b, d), (m, du, r) = z.shape, down.shape
    kind, threads, size = DTYPES[z.dtype], torch.get_num_threads(), z.element_size()
    need_z, need_gate, need_down, need_up, need_source = (bool(need & 1 << k) for k in range(5))
    need_u = need_source or need_z and source is None
    a, w = down.permute(1, 0, 2).reshape(du, m * r), up.reshape(m * r, d)
    none, wide = z.new_empty(0), torch.float32
    dz = z.new_empty(b, d) if need_z else none
    dsource = u.new_empty(b, du) if need_source else none
    dgate = z.new_empty(b, m)
    step = min(b, max(64, CHUNK // 8 // d))
    dv_chunk, dh = z.new_empty(step, d), z.new_empty(step, m * r)
    scaled = z.new_empty(step, m * r) if need_up else none
    da = z.new_zeros(du, m * r, dtype=wide) if need_down else none
    dw = z.new_zeros(m * r, d, dtype=wide) if need_up else none
    for i in range(0, b, step):
        n = min(step, b - i)
        dv = dz[i : i + n] if need_z else dv_chunk[:n]
        lib.project(de.data_ptr() + i * de.stride(0) * size, e.data_ptr() + i * d * size, inv.data_ptr() + 4 * i,
                    dv.data_ptr(), de.stride(0), d, d, n, d, kind, threads)
        if need == 1 and source is not None:
            continue
        torch.mm(dv, w.T, out=dh[:n])
        lib.gate_back(dh.data_ptr(), h.data_ptr() + i * m * r * size, gate.data_ptr() + i * gate.stride(0) * size,
                      scaled.data_ptr() if need_up else 0, dgate.data_ptr() + i * m * size, m * r, m * r,
                      gate.stride(0), m * r, m, n, m, r, kind, threads)
        if need_up:
            _accumulate(dw, scaled[:n].T, dv)
        if need_down:
            _accumulate(da, u[i : i + n].T, dh[:n])
        if need_source:
            torch.mm(dh[:n], a.T, out=dsource[i : i + n])
        elif need_u:
            torch.addmm(dv, dh[:n], a.T, out=dv)
    ddown = da.view(du, m, r).permute(1, 0, 2).to(down.dtype) if need_down else none
    dup = dw.view(m, r, d).to(up.dtype) if need_up else none
    return dz, dgate if need_gate else none, ddown.contiguous(), dup, dsource


def _accumulate(total: Tensor, a: Tensor, b: Tensor) -> None:
    if b.dtype == torch.float32:
        total.addmm_(a, b)
    else:
        total.add_(a @ b)
