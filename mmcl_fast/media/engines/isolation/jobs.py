"""What is asked of whatever reads files, and what comes back; and reading them in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from mmcl_fast.errors import MediaError
from mmcl_fast.media.decode import check, decode
from mmcl_fast.media.sniff import sniff
from mmcl_fast.media.source import Source
from mmcl_fast.media.spec import Spec


@dataclass
class Job:
    """A file to be read.

    Attributes:
        source: see ``media.decode``.
        modality: None: found from the content.
        specs: modality -> the preparation wanted. A file of another modality is recognised, and no more.
        whole: read to the end of the file and give nothing back: a check.
        out: float32 of the spec's shape to write to. None: a new tensor.
        view, seed, key: see ``media.decode``.
    """

    source: Source
    modality: str | None
    specs: Mapping[str, Spec]
    whole: bool = False
    out: Tensor | None = None
    view: int = 0
    seed: int = 0
    key: str | None = None


@dataclass
class Outcome:
    """``modality``: as told or found; ``error``: why the file can't be read; ``data``: what was decoded."""

    modality: str | None
    error: MediaError | None = None
    data: Tensor | str | None = None


class Decoders(Protocol):
    """What reads files: this process, or ``workers`` others. Any thread may use it."""

    workers: int

    def run(self, jobs: Sequence[Job]) -> list[Outcome]: ...

    def close(self) -> None: ...


class InProcess:
    """Decoders without workers. ``workers`` is 0."""

    workers = 0

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Read files one after another."""
        return list(map(read_here, jobs))

    def close(self) -> None:
        """Nothing is to be ended."""


def read_here(job: Job) -> Outcome:
    """Read a file in this process."""
    modality = job.modality
    try:
        modality = modality or sniff(job.source)
        spec = job.specs.get(modality)
        if spec is None:
            return Outcome(modality)
        if job.whole:
            check(job.source, modality, spec)
            return Outcome(modality)
        return Outcome(
            modality, None, decode(job.source, modality, spec, view=job.view, seed=job.seed, key=job.key, out=job.out)
        )
    except MediaError as error:
        return Outcome(modality, error)
