"""Decode every file of a stream before anything is learned from it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from mmcl_fast.errors import MediaError

if TYPE_CHECKING:
    from mmcl_fast.streams import Sample, Stream


def faults(samples: Sequence[Sample], *, workers: int = 2, progress: Any = None) -> list[str]:
    """One line for each file that does not decode as its modality, in the samples' order.

    Reads and decodes each file whole; samples that carry their text need no file.
    """
    from mmcl_fast import media
    from mmcl_fast.progress import Silent

    def fault(sample: Sample) -> str | None:
        try:
            media.check(sample.path, sample.modality)
        except MediaError as error:
            return str(error)
        return None

    files = [sample for sample in samples if sample.path is not None]
    found = []
    with (progress or Silent()).phase("check the files", len(files)) as shown:
        with ThreadPoolExecutor(max(1, workers)) as pool:
            for line in pool.map(fault, files):
                shown.advance()
                if line:
                    found.append(line)
    return found


def samples_of(stream: Stream) -> list[Sample]:
    """Every sample of a stream, whatever its split."""
    return [s for task in stream.tasks for split in (task.train, task.val, task.test) for s in split]


def require(stream: Stream, *, workers: int = 2, progress: Any = None) -> None:
    """Raises MediaError with the first fault and the number of the others."""
    found = faults(samples_of(stream), workers=workers, progress=progress)
    if found:
        more = f" ({len(found) - 1} more: mmcl-fast data check lists them)" if found[1:] else ""
        raise MediaError(found[0] + more)
