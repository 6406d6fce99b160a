"""Decoding where it can do no harm: in worker processes that a file may kill without anybody else noticing.

``Pool`` has ``decode``, ``check`` and ``sniff``. ``sandbox`` says what workers give up on which system.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from mmcl_fast.errors import MediaError
from mmcl_fast.media.isolation.limits import Limits, limits_of, wanted
from mmcl_fast.media.isolation.pool import REASONS, DecoderDied, Job, Outcome, Pool
from mmcl_fast.media.isolation.process import IsolationError, fork_server, unavailable
from mmcl_fast.media.source import Source
from mmcl_fast.media.spec import Spec

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
    "limits_of",
    "prepare",
    "unavailable",
    "wanted",
]


class Decoders(Protocol):
    """What reads files: this process, or workers."""

    def decode(
        self,
        source: Source,
        modality: str,
        spec: Spec | None = None,
        *,
        view: int = 0,
        seed: int = 0,
        key: str | None = None,
        out: Tensor | None = None,
    ) -> Tensor | str: ...

    def check(self, source: Source, modality: str, spec: Spec | None = None) -> None: ...

    def faults(self, files: Sequence[tuple[Source, str, Spec]]) -> list[MediaError | None]: ...

    def sniff(self, source: Source) -> str: ...

    def close(self) -> None: ...


class InProcess:
    """Decoders without workers."""

    def decode(
        self,
        source: Source,
        modality: str,
        spec: Spec | None = None,
        *,
        view: int = 0,
        seed: int = 0,
        key: str | None = None,
        out: Tensor | None = None,
    ) -> Tensor | str:
        from mmcl_fast.media.decode import decode

        return decode(source, modality, spec, view=view, seed=seed, key=key, out=out)

    def check(self, source: Source, modality: str, spec: Spec | None = None) -> None:
        from mmcl_fast.media.decode import check

        check(source, modality, spec)

    def faults(self, files: Sequence[tuple[Source, str, Spec]]) -> list[MediaError | None]:
        """Why each (file, modality, spec) does not decode to its end; None where it does."""
        found: list[MediaError | None] = []
        for file in files:
            try:
                self.check(*file)
            except MediaError as error:
                found.append(error)
            else:
                found.append(None)
        return found

    def sniff(self, source: Source) -> str:
        from mmcl_fast.media.sniff import sniff

        return sniff(source)

    def close(self) -> None:
        """Nothing is to be ended."""

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def decoders(
    settings: Mapping[str, Any] | None, workers: int, died: Callable[[str], None] | None = None
) -> Pool | InProcess:
    """What ``settings``, a config's [media], asks for: workers, unless ``isolate`` is false or the system has none."""
    if not wanted(settings) or unavailable() is not None:
        return InProcess()
    return Pool(workers, limits_of(settings), died)


def prepare(settings: Mapping[str, Any] | None = None) -> None:
    """Begin to start what starts workers, beside whatever else is to be loaded."""
    if wanted(settings) and unavailable() is None:
        fork_server()
