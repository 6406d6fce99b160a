"""Jobs for decoders, their outcomes, and the decoder that works in this process."""

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
    """A file to decode.

    Attributes:
        source: see ``media.decode``.
        modality: of the file; None: find it from the content.
        specs: modality -> preparation. A file of another modality is recognised, but not decoded.
        check_only: check the file to its end, and return no data.
        out: float32 tensor of the spec's shape that receives the result. None: a new tensor.
        view, seed, key: see ``media.decode``.
    """

    source: Source
    modality: str | None
    specs: Mapping[str, Spec]
    check_only: bool = False
    out: Tensor | None = None
    view: int = 0
    seed: int = 0
    key: str | None = None


@dataclass
class Outcome:
    """The result of a job.

    Attributes:
        modality: as given or found; None: not found.
        error: the reason why the file cannot be read.
        data: the decoded tensor or text; None after a check or an error.
    """

    modality: str | None
    error: MediaError | None = None
    data: Tensor | str | None = None


class Decoders(Protocol):
    """Decodes files, in this process or in ``workers`` others. Any thread may use it."""

    workers: int

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Return the outcome of each job."""

    def close(self) -> None:
        """End the processes."""


class InProcessDecoders:
    """Decodes files in this process. ``workers`` is 0."""

    workers = 0

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Decode one file after another."""
        return list(map(decode_in_process, jobs))

    def close(self) -> None:
        """Do nothing: there is no process to end."""


def decode_in_process(job: Job) -> Outcome:
    """Decode a file in this process."""
    modality = job.modality
    try:
        modality = modality or sniff(job.source)
        spec = job.specs.get(modality)
        if spec is None:
            return Outcome(modality)
        if job.check_only:
            check(job.source, modality, spec)
            return Outcome(modality)
        return Outcome(
            modality, None, decode(job.source, modality, spec, view=job.view, seed=job.seed, key=job.key, out=job.out)
        )
    except MediaError as error:
        return Outcome(modality, error)
