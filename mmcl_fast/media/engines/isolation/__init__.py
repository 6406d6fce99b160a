"""Decoding where it can do no harm: in worker processes that a file may kill without anybody else noticing.

``Pool`` has ``decode``, ``check`` and ``sniff``. ``sandbox`` says what workers give up on which system.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mmcl_fast.media.engines.isolation import landlock, seccomp
from mmcl_fast.media.engines.isolation.jobs import Decoders, InProcess, Job, Outcome
from mmcl_fast.media.engines.isolation.limits import Limits, limits_of, wanted
from mmcl_fast.media.engines.isolation.pool import REASONS, DecoderDied, Pool
from mmcl_fast.media.engines.isolation.process import IsolationError, fork_server, unavailable

__all__ = [
    "REASONS",
    "DecoderDied",
    "Decoders",
    "InProcess",
    "IsolationError",
    "Job",
    "Limits",
    "Outcome",
    "Pool",
    "decoders",
    "describe",
    "limits_of",
    "prepare",
    "unavailable",
    "wanted",
]


def decoders(
    settings: Mapping[str, Any] | None,
    workers: int,
    limits: Limits | None = None,
    died: Callable[[str], None] | None = None,
) -> Pool | InProcess:
    """What ``settings``, a config's [media], asks for: workers, unless ``isolate`` is false or the system has none.

    ``limits``: in place of those of the settings.
    """
    if not wanted(settings) or unavailable() is not None:
        return InProcess()
    return Pool(workers, limits or limits_of(settings), died)


def prepare(settings: Mapping[str, Any] | None = None) -> None:
    """Begin to start what starts workers, beside whatever else is to be loaded."""
    if wanted(settings) and unavailable() is None:
        fork_server()


def describe() -> tuple[bool, str]:
    """Whether workers give up all that ``sandbox`` names, and what they give up on this system."""
    if why := unavailable():
        return False, f"{why}: files are decoded in the process that asks"
    version = landlock.version()
    files = f"open no file (Landlock {version})" if version else "may open files (no Landlock here)"
    others = (
        "reach no network or process (seccomp)" if seccomp.available() else "may reach the network (no seccomp here)"
    )
    return bool(version) and seccomp.available(), f"workers {files} and {others}"
