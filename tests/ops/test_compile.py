"""The kernels compiled without a GPU: no spills on Hopper, within registers and shared memory everywhere, with wgmma.

Triton's kernels are compiled by the installed Triton. If make test has installed 3.6 too, which is the Triton of torch
2.11, a second run uses that version.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("triton")

import triton
from mmcl_fast.kernels import alignment, realignment

from mmcl_fast._extension import compiled
from mmcl_fast.ops import backends
from tests.ops.sm90 import SHARED_LIMIT, compile_kernel, cubins, machine_code, usage

HALF = ["bf16", "fp16"]
SCALAR = {"scale": "fp32", "smoothing": "fp32"}
FLOATS = (
    "inv",
    "inv_z",
    "inv_t",
    "out",
    "row_max",
    "row_sum",
    "row_fix",
    "label_logit",
    "loss",
    "dscale",
    "ratio",
    "label_coef",
    "mean_text",
    "scale_ptr",
)
WIDE_FLOATS = {"o": "*fp32"}
SIZES = ("rows", "classes", "width", "per_split", "cols", "first", "ignore", "ranks", "rank", "groups")


def signature(kernel, dtype: str, constants: dict) -> dict[str, str]:
    """Return each argument's type by its name: sizes and strides int32, statistics float32, the others dtype."""
    types = {}
    for name in kernel.arg_names:
        if name in constants:
            continue
        if name in SCALAR:
            types[name] = SCALAR[name]
        elif name in SIZES or name.startswith("ld"):
            types[name] = "i32"
        elif name == "labels":
            types[name] = "*i64"
        else:
            types[name] = "*fp32" if name in FLOATS or name in WIDE_FLOATS else f"*{dtype}"
    return types


def check(kernel, dtype: str, constants: dict, *, wgmma: bool = False, capability: int = 90, **options) -> None:
    """Compile the kernel; assert that it does not spill, fits the GPU and uses wgmma or not."""
    used = compile_kernel(kernel, signature(kernel, dtype, constants), constants, capability, **options)
    assert used["stack"] <= (8 if dtype == "fp32" else 0) and used["local"] == 0, f"spills: {used}"
    assert used["registers"] <= 255 and used["shared"] <= SHARED_LIMIT[capability], used
    assert (used["wgmma"] > 0) == wgmma, used


SCALE = {"scale_ptr": None, "HAS_SCALE": False}


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("width", [64, 128, 256])
def test_one_pass(dtype, width):
    for sizes, warps, stages in alignment.CONFIGS["one_pass"]["hopper"][width]:
        constants = sizes | {"D": width, "UPCAST": False} | SCALE
        check(alignment.one_pass, dtype, constants, wgmma=True, num_warps=warps, num_stages=stages)


@pytest.mark.parametrize("width", [64, 128, 256])
def test_one_pass_with_the_scale_as_a_tensor(width):
    sizes, warps, stages = alignment.CONFIGS["one_pass"]["hopper"][width][0]
    constants = sizes | {"D": width, "UPCAST": False, "HAS_SCALE": True}
    check(alignment.one_pass, "bf16", constants, wgmma=True, num_warps=warps, num_stages=stages)


@pytest.mark.parametrize("capability", [80, 89, 100, 120])
def test_configurations_fit_other_gpus(capability):
    for width, configs in alignment.CONFIGS["one_pass"]["other"].items():
        for sizes, warps, stages in configs:
            constants = sizes | {"D": width, "UPCAST": False} | SCALE
            check(alignment.one_pass, "bf16", constants, capability=capability, num_warps=warps, num_stages=stages)
    for kind, dtype in (("half", "bf16"), ("wide", "fp32")):
        for sizes, warps, stages in realignment.CONFIGS["shift_normalise"][kind]:
            used = {"num_warps": warps, "num_stages": stages}
            check(realignment.shift_normalise, dtype, sizes | {"UPCAST": False}, capability=capability, **used)


TRITON = {"3.6": Path(sys.prefix) / "triton-3.6"}


@pytest.mark.skipif("MMCL_FAST_TEST_TRITON" in os.environ, reason="is this very test")
@pytest.mark.parametrize("version", TRITON)
def test_another_triton(version):
    folder = TRITON[version]
    if not (folder / "triton").is_dir():
        pytest.skip(f"Triton {version} is not in {folder.name} of the environment; make test puts it there")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            __file__,
            "-q",
            "-p",
            "no:cacheprovider",
            "-k",
            "not cuda and not machine_code",
        ],
        env=os.environ | {"PYTHONPATH": str(folder), "MMCL_FAST_TEST_TRITON": version},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.skipif("MMCL_FAST_TEST_TRITON" not in os.environ, reason="for the run under another Triton")
def test_this_is_the_triton_asked_for():
    assert triton.__version__.startswith(os.environ["MMCL_FAST_TEST_TRITON"])


@pytest.mark.parametrize("dtype", ["fp32", *HALF])
def test_rows_of_the_loss(dtype):
    check(alignment.row_norm, dtype, {"BLOCK": 1024})
    check(alignment.exp_rows, dtype, SCALE | {"START": True, "BLOCK": 4096}, num_warps=8)
    check(alignment.exp_rows, dtype, SCALE | {"START": False, "BLOCK": 4096}, num_warps=8)
    check(alignment.finish, dtype, SCALE | {"SPLITS": 4, "SMOOTH": True, "NEED_Z": True, "D": 1024})


@pytest.mark.parametrize("dtype", ["fp32", *HALF])
def test_realign(dtype):
    for sizes, warps, stages in realignment.CONFIGS["shift_normalise"]["wide" if dtype == "fp32" else "half"]:
        check(
            realignment.shift_normalise,
            dtype,
            sizes | {"UPCAST": False},
            wgmma=dtype != "fp32",
            num_warps=warps,
            num_stages=stages,
        )
    check(realignment.project, dtype, {"D": 1024})
    check(realignment.gate_back, dtype, {"R": 64}, num_warps=1)


def test_each_warp_has_rows_of_its_own():
    """A warp of a product has 16 rows. With more warps than rows, several would compute the same logits."""
    lists = [*alignment.CONFIGS["one_pass"]["hopper"].values(), realignment.CONFIGS["shift_normalise"]["half"]]
    assert all(16 * warps <= sizes["BM"] for configs in lists for sizes, warps, _ in configs)


@pytest.mark.skipif("90a" not in backends()["cuda"].built, reason="mmcl_fast._C was built without sm_90a")
def test_cuda_kernels_do_not_spill():
    names = set()
    for cubin in cubins(compiled().__file__, "sm_90a"):
        for used in usage(cubin):
            names.add(used["name"])
            assert used["STACK"] == 0 and used["LOCAL"] == 0, f"spills: {used}"
            assert used["SHARED"] <= SHARED_LIMIT[90]
    for kernel in ("norm_kernel", "exp_kernel", "finish_kernel", "add_kernel", "project_kernel", "gate_back_kernel"):
        assert sum(kernel in name for name in names) >= 3, f"{kernel} is not there for every dtype: {names}"


@pytest.mark.skipif("90a" not in backends()["cuda"].built, reason="mmcl_fast._C was built without sm_90a")
@pytest.mark.parametrize("dtype", ["6__half", "13__nv_bfloat16"])
@pytest.mark.parametrize("chunks, parts", [(2, 1), (4, 1), (8, 1), (6, 2), (8, 2)])
def test_machine_code_of_the_one_pass_kernel(dtype, chunks, parts):
    body = one_pass_code()[f"{dtype}Li{chunks}ELi{parts}E"]
    count = Counter(re.findall(r"^\s+/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+ )?([A-Z]\w*)", body, re.MULTILINE))
    # S of both warpgroups: a step for 16 columns. O: 4 steps for a tile, two tiles a pair, and one in a last half pair.
    logits, sums = 2 * 4 * chunks, 4 * (2 + 2 + 1)
    if chunks == 2:  # both have the same shape
        logits = sums = logits + sums
    assert body.count("HGMMA.64x64x16") == logits and body.count(f"HGMMA.64x{32 * chunks}x16") == sums
    assert "UTMALDG.2D.MULTICAST" in body and body.count("USETMAXREG") == 2
    assert not count["LD"] and not count["ST"], "shared memory is read or written through generic addresses"
    assert not count["LDL"] and not count["STL"], "registers spill"
    assert body.count("MEMBAR.ALL.GPU") <= 2, "not only the cluster's first and last meeting wait for the whole memory"


@functools.cache
def one_pass_code() -> dict[str, str]:
    """Return the machine code of each instance of the one-pass kernel, by its template arguments."""
    (code,) = [text for text in machine_code(compiled().__file__, "sm_90a") if "one_pass_kernel" in text]
    bodies = [part for part in code.split("Function : ")[1:] if "one_pass_kernel" in part.split()[0]]
    return {re.search(r"one_pass_kernelI(\w+?E)EE", body.split()[0])[1]: body for body in bodies}
