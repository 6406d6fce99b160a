"""The choice of a backend for each call.

A backend asked for by name is taken, or BackendError says why it cannot compute the call. Otherwise cpp is taken on the
CPU, and the faster of cuda and triton on a GPU. The faster one is found by the nearest measurement in table.json, or by
the cost model where no measurement is near. The reference is taken for float64, and where no other can compute.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mmcl_fast._extension import load
from mmcl_fast.errors import UserError
from mmcl_fast.ops import cost_model
from mmcl_fast.ops.backends.protocol import Backend
from mmcl_fast.ops.cost_model import LossShape, Problem, RealignShape

NAMES = ("reference", "cpp", "triton", "cuda")
GPU_NAMES = ("cuda", "triton")  # at equal cost the first: its launches need no Python
TABLE = Path(__file__).with_name("table.json")
OLDEST = (8, 0)  # compute capability of Ampere: bfloat16 products and asynchronous copies
NEAR = 1.0  # in powers of two: a measurement counts where each size is from half to twice its own


class BackendError(UserError):
    """A backend that was asked for by name cannot compute this; the message says why."""


@dataclass(frozen=True)
class Availability:
    """Whether a backend can run on this machine.

    Attributes:
        available: it can run.
        why: the reason if it cannot, else "".
        built: version or compiler, and architectures, in words; "" if it is not installed or was not built.
    """

    available: bool
    why: str
    built: str


class Choice(NamedTuple):
    """A backend's name and the reason for it."""

    backend: str
    by: str  # "forced" (asked for by name), "measured", "model", "no other backend" (only this one can), "float64"


@cache
def _extension() -> tuple[dict, str]:
    """Return (build information of mmcl_fast._C, ""), or ({}, the reason) if it was not compiled."""
    lib, why = load()
    return (json.loads(lib.build_info()) | {"isa": lib.cpu_isa()} if lib else {}), why


@cache
def _no_gpu() -> str:
    """Return why torch cannot use an NVIDIA GPU; "" if it can."""
    if not torch.version.cuda:
        return f"torch {torch.__version__} was built without CUDA"
    return "" if torch.cuda.is_available() else "torch finds no NVIDIA GPU or driver"


@cache
def capability(index: int | None) -> tuple[int, int]:
    """Return the compute capability of a GPU, such as (9, 0); None: of the current one."""
    return torch.cuda.get_device_capability(index)


def sm(number: tuple[int, int]) -> str:
    """Return the name of a compute capability: "sm_90" for (9, 0)."""
    return f"sm_{number[0]}{number[1]}"


def unserved(name: str, archs: Iterable[str], number: tuple[int, int]) -> str:
    """Return why code for ``archs`` ("80", "90a", "120+PTX") does not run on this compute capability; "" if it does.

    Machine code runs on GPUs of its major version whose minor version is the same or newer. Code with an "a" or "f" is
    taken to run on its exact version only. PTX runs on every newer architecture: the driver compiles it. GPUs before
    ``OLDEST`` are never served.

    Args:
        name: of the backend, for the message.
        archs: architectures that the code was compiled for.
        number: the GPU's compute capability, such as (9, 0).
    """
    if number < OLDEST:
        return f"this GPU is {sm(number)}: the {name} kernels need {sm(OLDEST)} or newer; use a GPU from Ampere on"
    for arch in archs:
        digits, exact, ptx = re.fullmatch(r"(\d+)([af]?)(\+PTX)?", arch).groups()  # type: ignore[union-attr]
        compiled_for = int(digits[:-1]), int(digits[-1])
        runs = compiled_for == number if exact else compiled_for[0] == number[0] and compiled_for <= number
        if runs or (ptx and compiled_for <= number):
            return ""
    return (
        f"this GPU is {sm(number)} and mmcl_fast._C holds code for {', '.join(archs)}: reinstall with "
        f'MMCL_FAST_CUDA_ARCHS="{number[0]}{number[1]}"'
    )


def _triton() -> Availability:
    """Return whether Triton is installed and serves a GPU of this machine; TRITON_INTERPRET=1 needs no GPU."""
    try:
        import triton
    except ImportError as error:
        return Availability(False, f"triton is not installed ({error}): pip install triton", "")
    if os.environ.get("TRITON_INTERPRET") == "1":
        return Availability(True, "", f"triton {triton.__version__}, interpreted")
    why = _no_gpu() or _unserved_anywhere("triton", [f"{OLDEST[0]}{OLDEST[1]}+PTX"])
    return Availability(not why, why, f"triton {triton.__version__}")


def _cuda(info: dict, why: str) -> Availability:
    """Return whether mmcl_fast._C was built with CUDA and serves a GPU; info and why as from ``_extension``."""
    compiled = info.get("cuda")
    if not compiled:
        why = why or "mmcl_fast._C was built without nvcc: install the CUDA toolkit and reinstall"
        return Availability(False, why, "")
    why = _no_gpu() or _unserved_anywhere("cuda", compiled["archs"])
    return Availability(not why, why, f"nvcc {compiled['nvcc']}, architectures {', '.join(compiled['archs'])}")


def _unserved_anywhere(name: str, archs: list[str]) -> str:
    """Return why the code serves no GPU of this machine; "" if it serves one."""
    whys = [unserved(name, archs, capability(k)) for k in range(torch.cuda.device_count())]
    return whys[0] if whys and all(whys) else ""


@cache
def _available(name: str) -> Availability:
    """Return whether one backend is available; asks the machine once.

    Triton must be imported to find out, which takes half a second.
    """
    info, why = _extension()
    if name == "triton":
        return _triton()
    if name == "cuda":
        return _cuda(info, why)
    if name == "reference":
        return Availability(True, "", "plain PyTorch")
    built = f"{info['compiler']}, {', '.join(info['isas'])}; this processor runs {info['isa']}" if info else ""
    return Availability(bool(info), why, built)


def backends() -> dict[str, Availability]:
    """Return the availability of every backend by name, as it was when it was first asked for."""
    return {name: _available(name) for name in NAMES}


@cache
def _refusal(name: str, device: str, index: int | None, dtype: torch.dtype) -> str:
    """Return the reason of ``refusal``; takes the device as type and index, so that the cache hashes fast."""
    if name == "reference":
        return ""
    if not (state := _available(name)).available:
        return state.why
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it computes float32, bfloat16 and float16, not {dtype}"
    if name == "cpp":
        return "" if device == "cpu" else f"it computes on the CPU, and z is on {device}"
    if name == "triton" and os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    if device != "cuda":
        interpreted = " (on the CPU only under TRITON_INTERPRET=1)" if name == "triton" else ""
        return f"it computes on an NVIDIA GPU{interpreted}, and z is on {device}"
    archs = _extension()[0]["cuda"]["archs"] if name == "cuda" else [f"{OLDEST[0]}{OLDEST[1]}+PTX"]
    return unserved(name, archs, capability(index))


def refusal(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """Return why a backend does not compute this dtype on this device; "" if it does."""
    return _refusal(name, device.type, device.index, dtype)


@cache
def _table() -> dict[str, list[dict]]:
    """Return the measured times: for each operation a list of device, dtype, grads, sizes and ms by backend.

    The environment variable MMCL_FAST_TABLE names a file to read in place of table.json.
    """
    path = os.environ.get("MMCL_FAST_TABLE")
    return json.loads((Path(path) if path else TABLE).read_text())


def key(problem: Problem, device: str) -> dict[str, object]:
    """Return the keys by which the table's measurement of a problem is found; device: "cpu", "sm_90"."""
    dtype = str(problem.dtype).removeprefix("torch.")
    return {"device": device, "dtype": dtype, "grads": problem.grads, "sizes": list(problem.sizes)}


def _measured(problem: Problem, device: str, among: tuple[str, ...]) -> str | None:
    """Return the fastest of the backends ``among`` by the nearest measurement with the same device, dtype and grads.

    None if none is near, and for tensors that are not aligned: all measurements are of aligned ones.
    """
    wanted = key(problem, device)

    def distance(row: dict) -> float:
        """The largest ratio of two sizes, in powers of two."""
        return max(abs(math.log2(a / b)) for a, b in zip(row["sizes"], problem.sizes, strict=True))

    rows = [
        row
        for row in _table().get(problem.op, [])
        if all(row[name] == wanted[name] for name in ("device", "dtype", "grads"))
        and distance(row) <= NEAR
        and any(name in row["ms"] for name in among)
    ]
    if not rows or not problem.aligned:
        return None
    times = min(rows, key=distance)["ms"]
    return min((name for name in among if name in times), key=times.__getitem__)


@lru_cache(maxsize=1 << 14)
def _best(problem: Problem, device: str, index: int | None) -> Choice:
    """Return the choice of "auto", by the rules of the module; cached, because it costs more than a small call."""
    if problem.dtype == torch.float64:
        return Choice("reference", "float64")
    candidates = ("cpp", *GPU_NAMES) if device == "cuda" else ("cpp",)
    able = tuple(name for name in candidates if not _refusal(name, device, index, problem.dtype))
    if not able:
        return Choice("reference", "no other backend")
    if len(able) == 1:
        return Choice(able[0], "no other backend")
    number = capability(index)
    if name := _measured(problem, sm(number), able):
        return Choice(name, "measured")
    return Choice(min(able, key=lambda name: cost_model.seconds(name, problem, number)), "model")


def _requested(backend: str | None) -> str:
    """Return the name that the call asks for, else the one that MMCL_FAST_BACKEND asks for, else "auto"."""
    name = backend if backend not in (None, "auto") else os.environ.get("MMCL_FAST_BACKEND") or "auto"
    if name not in (*NAMES, "auto"):
        raise BackendError(f"there is no backend {name!r}: choose one of auto, {', '.join(NAMES)}")
    return name


def explain(problem: Problem, device: torch.device, backend: str | None = None) -> Choice:
    """Return the backend for one call and the reason for it.

    Raises:
        BackendError: the backend that was asked for does not exist or cannot compute this.
    """
    name = _requested(backend)
    if name == "auto":
        return _best(problem, device.type, device.index)
    if why := _refusal(name, device.type, device.index, problem.dtype):
        raise BackendError(f"backend {name!r} cannot compute {problem.op} here: {why}")
    return Choice(name, "forced")


def choose(problem: Problem, device: torch.device, backend: str | None = None) -> str:
    """Return the backend's name for one call; ``explain`` gives the reason too."""
    return explain(problem, device, backend).backend


def traced(op: str, device: str, index: int | None, dtype: torch.dtype, backend: str | None) -> str:
    """Return the backend's name for a compiled graph.

    Sizes may be symbols there, so "auto" stays "auto": each call of the graph chooses. Where only the reference
    computes this dtype on this device, "auto" becomes "reference".

    Raises:
        BackendError: as for ``explain``.
    """
    name = _requested(backend)
    if name == "auto":
        candidates = ("cpp", *GPU_NAMES) if device == "cuda" else ("cpp",)
        return "auto" if any(not _refusal(n, device, index, dtype) for n in candidates) else "reference"
    if why := _refusal(name, device, index, dtype):
        raise BackendError(f"backend {name!r} cannot compute {op} here: {why}")
    return name


# The attribute that torch.compiler.assume_constant_result sets. That function imports the whole compiler, which would
# take a second at every start.
traced._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _aligned(x: Tensor) -> bool:
    """Return whether each row of x is contiguous and begins at a multiple of 16 bytes.

    Read from strides and offset, not from the address: a fake tensor has none.
    """
    size = x.element_size()
    return x.stride(1) == 1 and x.stride(0) * size % 16 == 0 and x.storage_offset() * size % 16 == 0


def loss_problem(z: Tensor, text: Tensor, text_gradient: bool) -> LossShape:
    """Return the problem of an alignment loss: its sizes, its dtype, and whether its rows are aligned in memory.

    Args:
        z: ``[B, D]``, the samples' embeddings.
        text: ``[C, D]``, the class embeddings.
        text_gradient: the gradient to ``text`` is wanted, too.

    Returns:
        ``aligned`` is always True off the GPU, where alignment does not matter.
    """
    aligned = not z.is_cuda or (_aligned(z) and _aligned(text))
    rows, width = z.shape
    return LossShape(rows, text.shape[0], width, z.dtype, text_gradient, aligned)


def realign_problem(z: Tensor, down: Tensor) -> RealignShape:
    """Return the problem of a re-alignment: the sizes of features z and of the down projections, and the dtype."""
    return RealignShape(z.shape[0], z.shape[1], down.shape[1], down.shape[0], down.shape[2], z.dtype)


@cache
def load_backend(name: str) -> Backend:
    """Return the backend; imports its module first, because Triton and CUDA take time or may be missing."""
    return import_module(f"mmcl_fast.ops.backends.{name}").BACKEND
