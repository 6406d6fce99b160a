"""Faults of the kind that only hardware shows, planted in the one-pass kernel: the emulator has to see each of them."""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections import Counter

import pytest
import torch
from torch import Tensor

pytest.importorskip("pybind11")
from tests.ops.emulator import CUDA, EARLY, LATE, RANDOM, compile_objects, link, write_sources

pytestmark = pytest.mark.skipif(CUDA is None, reason="needs the CUDA toolkit's headers")
# name: (text that stands once in csrc/cuda, text with the fault where PLANTED is true)
FAULTS = {
    "no proxy fence": ("publish_shared();", "if (!PLANTED) publish_shared();"),
    "wrong parity": ("% kStages, half), parity);", "% kStages, half), PLANTED ? parity ^ 1 : parity);"),
    "no wait for a tile": ("bar_wait(shared.full(n % kStages, half)", "if (!PLANTED) \\g<0>"),
    "too few bytes expected": ("bar_expect(shared.full(s, half), Stages::kHalf", "\\g<0> / (PLANTED ? 2 : 1)"),
    "no swizzle of a tensor map": ("CU_TENSOR_MAP_SWIZZLE_128B", "PLANTED ? CU_TENSOR_MAP_SWIZZLE_NONE : \\g<0>"),
    "half a box": ("box[] = {64, 64}", "box[] = {64, PLANTED ? 32u : 64u}"),
    "too little shared memory": (
        "config.dynamicSmemBytes = Shared<NC, PARTS>::kAsked",
        "\\g<0> - (PLANTED ? 1024 : 0)",
    ),
    "no wgmma fence": ("hold(o);\n    wgmma_fence();", "hold(o);\n    if (!PLANTED) wgmma_fence();"),
    "a stage given back early": (
        "release(own);\n      wgmma_wait<0>();\n      hold(o);\n      release(other);",
        "release(own);\n      if (PLANTED) release(other);\n      wgmma_wait<0>();\n      hold(o);\n"
        "      if (!PLANTED) release(other);",
    ),
    "no last sync": ("named_sync(kSums, kConsumers);", "if (!PLANTED) \\g<0>"),
    "halved strides of a tensor map": ("cuuint64_t(ld) * sizeof(T)", "\\g<0> / (PLANTED ? 2 : 1)"),
    "halved strides of a descriptor": (
        "(leap >> 4) << 16 | uint64_t(1024 >> 4)",
        "(leap >> 4) << 16 | uint64_t(1024 >> (PLANTED ? 5 : 4))",
    ),
    "no swizzle bit": (
        "uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62",
        "uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(PLANTED ? 0 : 1) << 62",
    ),
    "barriers not published": ("bars_ready();", "if (!PLANTED) bars_ready();"),
    "no wait for products": ("wgmma_wait<0>();\n    hold(s);", "if (!PLANTED) wgmma_wait<0>();\n    hold(s);"),
    "no wait for the other's P": (
        "named_sync(kPOfA, kConsumers);",
        "if (PLANTED) named_arrive(kPOfA, kConsumers); else \\g<0>",
    ),
    "no wait for the other's maximum": (
        "named_sync(kMaxOfA, kConsumers);",
        "if (PLANTED) named_arrive(kMaxOfA, kConsumers); else \\g<0>",
    ),
    "z given back early": (
        "bar_wait(shared.z_full(), segments & 1);",
        "\\g<0> if (PLANTED && c.thread % 32 == 0) bar_arrive(shared.z_empty());",
    ),
    "a copy for one block alone": (
        "uint16_t((1 << (a.row_blocks - 1) * PARTS | 1) << part)",
        "uint16_t(PLANTED ? 1 << cluster_rank() : (1 << (a.row_blocks - 1) * PARTS | 1) << part)",
    ),
    "a stage given back to the wrong block": (
        "in_block(bar, group * PARTS + part())",
        "in_block(bar, PLANTED ? part() : group * PARTS + part())",
    ),
    "a block that leaves early": (
        "    __syncwarp();\n  }\n  cluster_sync();",
        "    __syncwarp();\n  }\n  if (!PLANTED) cluster_sync();",
    ),
    "left operands overwritten": ("if (has_p) wgmma_wait<0>();", "if (has_p && !PLANTED) wgmma_wait<0>();"),
    "mail overwritten early": ("bar_wait(shared.mail_was_read(group), half ^ 1);", "if (!PLANTED) \\g<0>"),
    "no wait for mail": ("bar_wait(shared.has_mail(group), half);", "if (!PLANTED) \\g<0>"),
    "mail to oneself": ("cluster_rank() ^ 1", "cluster_rank() ^ (PLANTED ? 0 : 1)"),
}
ROWS, CLASSES = 70, 900  # rows of two blocks, more tiles than stages, a last tile that is not full
WIDTHS = [72, 200]  # of one and of two parts, in the kernel below


class OnePass(ctypes.Structure):
    """The struct of csrc/cuda/kernels.h."""

    _fields_ = [
        *(
            (name, kind)
            for pair in ("z", "text")
            for name, kind in ((pair, ctypes.c_void_p), (f"ld{pair[0]}", ctypes.c_int64))
        ),
        *((name, ctypes.c_void_p) for name in ("labels", "inv_z", "inv_t", "scale_at")),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("o", "row_max", "row_sum", "label_logit")),
        *((name, ctypes.c_int64) for name in ("rows", "classes", "width", "tiles_per_cluster")),
        ("row_blocks", ctypes.c_int),
        ("dtype", ctypes.c_int),
    ]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """The kernel for one width and dtype, with all faults, which ``planted`` chooses from."""
    folder, found = tmp_path_factory.mktemp("faults"), Counter()

    def edit(name: str, text: str) -> str:
        for number, (old, new) in enumerate(FAULTS.values()):
            found[old] += text.count(old)
            text = text.replace(old, new.replace("\\g<0>", old).replace("PLANTED", f"(emulated::planted == {number})"))
        if name == "one_pass_sm90a.cu":  # small blocks of one dtype: the others only take time to compile
            start, end = text.index("  if (width <= 128)"), text.index("}\ntemplate <typename F> int by_dtype")
            small = "  return width <= 128 ? f(Launch<T, 2, 1>(row_blocks)) : f(Launch<T, 2, 2>(row_blocks));\n"
            text = text[:start] + small + text[end:]
            bfloat16 = "  if (dtype == 1) return by_width<__nv_bfloat16>(width, row_blocks, f);\n"
            assert bfloat16 in text
            text = text.replace(bfloat16, "")
        return text

    write_sources(folder, edit)
    assert all(found[old] == 1 for old, _ in FAULTS.values()), found
    library = link(compile_objects(folder, ["one_pass_sm90a", "runtime", "one_kernel"]), folder / "one_kernel.so")
    run = ctypes.CDLL(str(library)).run_one_pass
    run.restype = ctypes.c_char_p
    return run


@functools.cache
def inputs(width: int) -> tuple[Tensor, Tensor, Tensor]:
    """z, text and labels."""
    g = torch.Generator().manual_seed(0)
    z, text = torch.randn(ROWS, width, generator=g).half(), torch.randn(CLASSES, width, generator=g).half()
    return z, text, torch.randint(CLASSES, (ROWS,), generator=g)


def check(kernel, timing: int, seed: int, planted: int, row_blocks: int, width: int) -> str:
    """Run the kernel; return what went wrong, or "" where its sums are right."""
    (z, text, labels), rows, classes, share = inputs(width), ROWS, CLASSES, 10
    slots = -(-(-(-classes // 64) - 1) // share) + 1
    inv_z, inv_t = 1 / z.float().norm(dim=1), 1 / text.float().norm(dim=1)
    o, label_logit = torch.full((slots, rows, width), torch.nan), torch.full((rows,), torch.nan)
    row_max, row_sum = torch.zeros(2, slots, rows)
    addresses = [x.data_ptr() for x in (labels, inv_z, inv_t)]
    outputs = [x.data_ptr() for x in (o, row_max, row_sum, label_logit)]
    call = OnePass(
        z.data_ptr(),
        width,
        text.data_ptr(),
        width,
        *addresses,
        None,
        30.0,
        *outputs,
        rows,
        classes,
        width,
        share,
        row_blocks,
        2,
    )
    if message := kernel(ctypes.byref(call), timing, seed, planted).decode():
        return message
    cosines = (z.double() @ text.double().T) * inv_z.double()[:, None] * inv_t.double()
    x = 30.0 * cosines
    here = x.gather(1, labels[:, None])[:, 0]
    x.scatter_(1, labels[:, None], -torch.inf)
    filled = row_sum != 0
    high = torch.where(filled, row_max, -torch.inf).amax(0).double()
    weight = torch.where(filled, (row_max.double() - high).exp(), 0.0)
    true_o = (x - high[:, None]).exp() @ (text.double() * inv_t.double()[:, None])
    found_o = (weight[..., None] * o.double().where(filled[..., None], 0.0)).sum(0)
    wrong = {
        "label": (label_logit - here).abs().max(),
        "sum": ((weight * row_sum).sum(0) / (x - high[:, None]).exp().sum(1) - 1).abs().max(),
        "O": ((found_o - true_o).norm(dim=1) / true_o.norm(dim=1)).max(),
    }
    return ", ".join(f"{name} is wrong by {float(by):.1e}" for name, by in wrong.items() if not by < 2e-3)


@pytest.mark.parametrize("timing", [EARLY, LATE, RANDOM])
@pytest.mark.parametrize("row_blocks", [1, 2])
@pytest.mark.parametrize("width", WIDTHS)
def test_without_a_fault_every_timing_gives_the_sums(kernel, timing, row_blocks, width):
    for seed in range(3):
        assert check(kernel, timing, seed, -1, row_blocks, width) == ""


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_seen(kernel, name):
    planted = list(FAULTS).index(name)
    widths = WIDTHS[::-1] if "mail" in name else WIDTHS
    ways = itertools.product(widths, (LATE, RANDOM, EARLY), range(2), (2, 1))
    seen = (check(kernel, timing, seed, planted, row_blocks, width) for width, timing, seed, row_blocks in ways)
    assert any(seen), "no timing showed it"
