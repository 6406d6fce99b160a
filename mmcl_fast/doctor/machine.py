"""Checks of the machine: Python, torch, GPUs, compiler, disk."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator

from mmcl_fast.doctor.result import CheckResult, first_output_line, one_line

MIN_PYTHON, MIN_TORCH = (3, 11), (2, 11)
MIN_DISK_GB = 2


def check_python() -> Iterator[CheckResult]:
    good, oldest = sys.version_info >= MIN_PYTHON, ".".join(map(str, MIN_PYTHON))
    yield CheckResult(
        "python",
        "ok" if good else "broken",
        f"{platform.python_version()}, {platform.platform()}",
        "" if good else f"use Python {oldest} or newer",
        core=True,
    )


def check_torch() -> Iterator[CheckResult]:
    install = f"pip install 'torch>={'.'.join(map(str, MIN_TORCH))}'"
    try:
        import torch
    except (ImportError, OSError) as error:
        yield CheckResult("torch", "broken", one_line(error), install, core=True)
        return
    # "2.13.0+cpu" and "2.13.0a0" are compared by their first two numbers.
    number = tuple(int(n) for n in torch.__version__.split("+")[0].split(".")[:2] if n.isdigit())
    good = number >= MIN_TORCH
    yield CheckResult(
        "torch",
        "ok" if good else "broken",
        f"{torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "" if good else install,
        core=True,
    )


def check_gpus() -> Iterator[CheckResult]:
    """Report torch's CUDA, each GPU that torch finds, and the driver."""
    import torch

    driver = first_output_line(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])
    if not torch.version.cuda:
        mend = "install the CUDA build of torch to use the GPU" if driver else ""
        yield CheckResult(
            "cuda", "missing", "torch was built without CUDA" + (f"; GPU here: {driver}" if driver else ""), mend
        )
    elif not torch.cuda.is_available():
        yield CheckResult(
            "cuda",
            "missing",
            f"torch has CUDA {torch.version.cuda}, but finds no GPU or driver",
            f"update the driver ({driver}) for CUDA {torch.version.cuda}" if driver else "",
        )
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        info = torch.cuda.get_device_properties(i)
        yield CheckResult(
            f"cuda:{i}",
            "ok",
            f"{info.name}, {info.total_memory / 2**30:.0f} GiB, sm_{info.major}{info.minor}, CUDA {torch.version.cuda}",
        )
    yield CheckResult("driver", "ok" if driver else "missing", driver or "no nvidia-smi that answers")


def check_nvcc() -> Iterator[CheckResult]:
    try:  # its first line names no version, so all of the output is read
        text = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
        release = next((line.strip() for line in text.splitlines() if "release" in line), "found")
        yield CheckResult("nvcc", "ok", release)
    except (subprocess.SubprocessError, OSError):
        yield CheckResult(
            "nvcc",
            "missing",
            "not on the PATH: the CUDA kernels are not compiled at installation",
            "on a GPU machine: install the CUDA toolkit, then pip install --force-reinstall --no-deps .",
        )


def check_disk() -> Iterator[CheckResult]:
    """Report the free space of the current folder, where runs are written by default."""
    free = shutil.disk_usage(".").free / 1e9
    enough = free > MIN_DISK_GB
    yield CheckResult(
        "disk",
        "ok" if enough else "missing",
        f"{free:.1f} GB free here",
        "" if enough else "make room for run folders and the feature cache",
    )
