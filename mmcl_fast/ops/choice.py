"""Which backend computes: what is available here and why not, what was measured fastest, what the user
forces."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from mmcl_fast.core import load
from mmcl_fast.errors import UserError

NAMES = ("reference", "cpp", "triton", "cuda")
MODULES = {"cpp": "cpu", "triton": "triton_", "cuda": "cuda_"}
TABLE = Path(__file__).with_name("table.json")


class BackendError(UserError):
    """A backend that was asked for by name cannot compute this, and why."""


@dataclass(frozen=True)
class Availability:
    """Whether a backend can run on this machine; if not, why; how it was built."""

    available: bool
    why: str
    built: str


@cache
def _extension() -> tuple[dict, str]:
    lib, why = load()
    return (json.loads(lib.build_info()) | {"isa": lib.cpu_isa()} if lib else {}), why


@cache
def _no_gpu() -> str:
    if not torch.version.cuda:
        return f"torch {torch.__version__} was built without CUDA"
    return "" if torch.cuda.is_available() else "torch finds no NVIDIA GPU or driver"


@cache
def backends() -> dict[str, Availability]:
    """Every backend by name; asks the machine once."""
    info, why = _extension()
    built = f"{info['compiler']}, {', '.join(info['isas'])}; this processor runs {info['isa']}" if info else ""
    found = {"reference": Availability(True, "", "plain PyTorch"), "cpp": Availability(bool(info), why, built)}
    try:
        import triton

        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        reason = "" if interpreted else _no_gpu()
        found["triton"] = Availability(
            not reason, reason, f"triton {triton.__version__}" + (", interpreted" if interpreted else "")
        )
    except ImportError as error:
        found["triton"] = Availability(False, f"triton is not installed ({error}): pip install triton", "")
    compiled = info.get("cuda") if info else None
    if not compiled:
        reason = why or "mmcl_fast._C was built without nvcc: install the CUDA toolkit and reinstall"
        found["cuda"] = Availability(False, reason, "")
    else:
        found["cuda"] = Availability(
            not _no_gpu(), _no_gpu(), f"nvcc {compiled['nvcc']}, architectures {', '.join(compiled['archs'])}"
        )
    return found


@cache
def _table() -> dict:
    path = os.environ.get("MMCL_FAST_TABLE")
    source = Path(path) if path else TABLE
    return json.loads(source.read_text())


@cache
def _measured(op: str, device: str, dtype: str, size: int) -> str:
    """The first row of the table whose limit holds `size` and whose backend is available here."""
    for row in _table()[op].get(f"{device}/{dtype}", []):
        if (row["up_to"] is None or size <= row["up_to"]) and backends()[row["backend"]].available:
            return row["backend"]
    return "reference"


def _refusal(name: str, device: str, dtype: torch.dtype) -> str:
    if name == "reference":
        return ""
    if not (state := backends()[name]).available:
        return state.why
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it computes float32, bfloat16 and float16, not {dtype}"
    if name == "cpp" and device != "cpu":
        return f"it computes on the CPU, and z is on {device}"
    if name == "cuda" and device != "cuda":
        return f"it computes on an NVIDIA GPU, and z is on {device}"
    if name == "triton" and device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"it computes on a GPU (on the CPU only under TRITON_INTERPRET=1), and z is on {device}"
    return ""


@torch.compiler.assume_constant_result
def _bounds(op: str, device: str, dtype: torch.dtype) -> tuple[int, ...]:
    """The sizes at which the table's choice may change, ascending."""
    rows = _table()[op].get(f"{device}/{str(dtype).removeprefix('torch.')}", [])
    return tuple(sorted(row["up_to"] for row in rows if row["up_to"] is not None))


@torch.compiler.assume_constant_result
def _choose(op: str, device: str, dtype: torch.dtype, size: int, backend: str | None) -> str:
    name = backend if backend not in (None, "auto") else os.environ.get("MMCL_FAST_BACKEND") or "auto"
    if name == "auto":
        if dtype == torch.float64:
            return "reference"
        return _measured(op, device, str(dtype).removeprefix("torch."), size)
    if name not in NAMES:
        raise BackendError(f"there is no backend {name!r}: choose one of auto, {', '.join(NAMES)}")
    if why := _refusal(name, device, dtype):
        raise BackendError(f"backend {name!r} cannot compute {op} here: {why}")
    return name


def choose(op: str, z: Tensor, size: int, backend: str | None) -> str:
    """The backend for one call. `size` is the number of classes (alignment_loss) or of ranks M r
    (realign)."""
    device, dtype = z.device.type, z.dtype
    for bound in _bounds(op, device, dtype):  # under torch.compile a size may be a symbol: the table's bound is none
        if size <= bound:
            return _choose(op, device, dtype, bound, backend)
    return _choose(op, device, dtype, sys.maxsize, backend)


@cache
def driver(name: str) -> ModuleType:
    """The module of mmcl_fast.ops that launches this backend's kernels."""
    return import_module(f"mmcl_fast.ops.{MODULES[name]}")
