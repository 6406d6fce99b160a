"""Isolated decoding: worker processes with few rights, so that a broken or hostile file harms only its worker.

``Pool`` has ``decode``, ``check`` and ``sniff``. The module ``sandbox`` lists the rights that workers give up on each
system.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mmcl_fast.media.engines.isolation import landlock, seccomp
from mmcl_fast.media.engines.isolation.jobs import Decoders, InProcessDecoders, Job, Outcome
from mmcl_fast.media.engines.isolation.limits import DecodeLimits, limits_of, uses_workers
from mmcl_fast.media.engines.isolation.pool import REASONS, DecoderDied, Pool
from mmcl_fast.media.engines.isolation.process import IsolationError, fork_server, unavailable

__all__ = [
    "REASONS",
    "DecodeLimits",
    "DecoderDied",
    "Decoders",
    "InProcessDecoders",
    "IsolationError",
    "Job",
    "Outcome",
    "Pool",
    "describe_sandbox",
    "limits_of",
    "open_decoders",
    "prepare",
    "unavailable",
    "uses_workers",
]


def open_decoders(
    settings: Mapping[str, Any] | None,
    workers: int,
    limits: DecodeLimits | None = None,
    died: Callable[[str], None] | None = None,
) -> Pool | InProcessDecoders:
    """Return decoders in worker processes, or in this process where isolation is off or not supported.

    Args:
        settings: the [media] table of a config; ``isolate`` false turns isolation off. The variable MMCL_FAST_ISOLATE
            goes before it.
        workers: number of processes at most.
        limits: of one file; None: the limits in ``settings``.
        died: called with the reason of each worker's death, one of ``REASONS``.
    """
    if not uses_workers(settings) or unavailable() is not None:
        return InProcessDecoders()
    return Pool(workers, limits or limits_of(settings), died)


def prepare(settings: Mapping[str, Any] | None = None) -> None:
    """Start the fork server in the background, so that it is ready when files come. Does nothing without isolation."""
    if uses_workers(settings) and unavailable() is None:
        fork_server()


def describe_sandbox() -> tuple[bool, str]:
    """Return whether workers give up all rights that ``sandbox`` lists, and one line that says which they give up."""
    if why := unavailable():
        return False, f"{why}: files are decoded in the process that asks"
    version = landlock.version()
    files = f"open no file (Landlock {version})" if version else "may open files (no Landlock here)"
    others = (
        "reach no network or process (seccomp)" if seccomp.available() else "may reach the network (no seccomp here)"
    )
    return bool(version) and seccomp.available(), f"workers {files} and {others}"
