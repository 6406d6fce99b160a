"""Checks of this package: compiled kernels, backends, worker processes, demo, feature cache."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from importlib import import_module

from mmcl_fast.doctor.result import CheckResult, one_line


def check_extension() -> Iterator[CheckResult]:
    rebuild = "pip install --force-reinstall --no-deps . (needs a C++ compiler)"
    try:
        module = import_module("mmcl_fast._C")
    except ImportError as error:
        yield CheckResult("mmcl_fast._C", "missing", f"{one_line(error)}; the reference backend is used", rebuild)
        return
    info = json.loads(module.build_info())
    about = "; ".join(f"{key}: {_as_words(value)}" for key, value in info.items() if value)
    yield CheckResult("mmcl_fast._C", "ok", about)


def _as_words(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {_as_words(item)}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def check_backends() -> Iterator[CheckResult]:
    from mmcl_fast import ops

    for name, found in ops.backends().items():
        about = found.built if found.available else f"{found.why}{f' (built: {found.built})' if found.built else ''}"
        yield CheckResult(f"backend {name}", "ok" if found.available else "missing", about or "available")


def check_backend_choices() -> Iterator[CheckResult]:
    """Report the backend that ``auto`` chooses on each GPU, for the loss of a small and of two large steps."""
    import torch

    from mmcl_fast.ops import choice
    from mmcl_fast.ops.cost_model import LossShape

    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        choices = []
        for rows, classes, width in ((256, 100, 512), (4096, 131072, 512), (4096, 131072, 1024)):
            picked = choice.explain(LossShape(rows, classes, width, torch.bfloat16), torch.device("cuda", i))
            choices.append(f"{rows} x {classes} x {width}: {picked.backend} ({picked.by})")
        yield CheckResult(f"auto on cuda:{i}", "ok", f"bfloat16 loss of B x C x D: {', '.join(choices)}")


def check_isolation() -> Iterator[CheckResult]:
    """Report the rights that worker processes give up before they decode files."""
    from mmcl_fast.media.engines.isolation import describe_sandbox

    complete, about = describe_sandbox()
    yield CheckResult("isolated decoding", "ok" if complete else "missing", about)


def check_demo() -> Iterator[CheckResult]:
    from mmcl_fast.errors import StreamError
    from mmcl_fast.streams.sources.demo import find_demo

    try:
        yield CheckResult("demo media", "ok", str(find_demo().parent))
    except StreamError as error:
        yield CheckResult("demo media", "missing", str(error), "run from a checkout of the repository")


def check_feature_cache() -> Iterator[CheckResult]:
    """Report the default cache folder, its size and its disk's free space."""
    from mmcl_fast.feature_cache.cache import default_folder
    from mmcl_fast.feature_cache.store import size_of

    folder = default_folder()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = f"{shutil.disk_usage(existing).free / 1e9:.1f} GB free there"
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        yield CheckResult("feature cache", "ok", f"{folder}: {size_of(folder) / 1e9:.1f} GB, {free}")
    else:
        yield CheckResult(
            "feature cache",
            "broken",
            f"{folder}: {existing} can't be written; {free}",
            "set XDG_CACHE_HOME, or train.cache in the config, to a folder that can",
        )
