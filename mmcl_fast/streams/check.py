"""Decode every file of a stream before anything is learned from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmcl_fast.errors import MediaError

if TYPE_CHECKING:
    from pathlib import Path

    from mmcl_fast.media.source import Slice
    from mmcl_fast.streams import Sample, Stream
    from mmcl_fast.streams.broken_samples import Broken

TOGETHER = 16  # files that a thread looks at in one go
AT_ONCE = 64  # such groups that are given to the threads before the next are


def faults(
    samples: Sequence[Sample], *, workers: int = 2, progress: Any = None, settings: Mapping[str, Any] | None = None
) -> list[Broken]:
    """The samples whose file does not decode as its modality, in their order.

    Reads and decodes each file whole, in ``workers`` processes that a file may kill: then it is one of those named.
    Samples that carry their text need no file.

    Args:
        settings: a config's [media]: see ``media.spec.adjust`` and ``media.isolation``, which ``isolate`` turns off.
    """
    from mmcl_fast import media
    from mmcl_fast.media.engines import isolation
    from mmcl_fast.media.engines.engine import pool_of
    from mmcl_fast.media.spec import adjust
    from mmcl_fast.progress import Silent
    from mmcl_fast.streams.broken_samples import Broken

    files = [(sample, sample.path) for sample in samples if sample.path is not None]
    if not files:
        return []
    specs = {name: adjust(media.default_spec(name), settings or {}) for name in media.MODALITIES}
    workers = min(max(1, workers), len(files))
    each = max(1, min(TOGETHER, len(files) // (2 * workers)))
    groups = [files[start : start + each] for start in range(0, len(files), each)]
    decoders = isolation.decoders(settings, workers)

    def fault(group: Sequence[tuple[Sample, Path | Slice]]) -> list[MediaError | None]:
        jobs = [isolation.Job(path, s.modality, {s.modality: specs[s.modality]}, whole=True) for s, path in group]
        return [outcome.error for outcome in decoders.run(jobs)]

    found = []
    pool = pool_of(workers)
    try:
        with (progress or Silent()).phase("check the files", len(files)) as shown:
            for start in range(0, len(groups), AT_ONCE):
                some = groups[start : start + AT_ONCE]
                for group, errors in zip(some, pool.map(fault, some)):
                    shown.advance(len(group))
                    found += [Broken.of(sample, error) for (sample, _), error in zip(group, errors) if error]
    finally:
        decoders.close()
        pool.shutdown(cancel_futures=True)
    return found


def samples_of(stream: Stream) -> list[Sample]:
    """Every sample of a stream, whatever its split."""
    return [s for task in stream.tasks for split in (task.train, task.val, task.test) for s in split]


def require(
    stream: Stream, *, workers: int = 2, progress: Any = None, settings: Mapping[str, Any] | None = None
) -> None:
    """Raises MediaError with the first fault and the number of the others."""
    found = faults(samples_of(stream), workers=workers, progress=progress, settings=settings)
    if found:
        more = f"{len(found) - 1} more: mmcl-fast data check lists them; " if found[1:] else ""
        raise MediaError(f'{found[0].reason} ({more}stream.on_broken = "skip" leaves out what is broken)')


def skip(
    stream: Stream, *, workers: int = 2, progress: Any = None, settings: Mapping[str, Any] | None = None
) -> Stream:
    """The stream without the samples that do not decode, which its ``skipped`` lists.

    Build the stream with ``check=False``: broken files are often equal to each other. What is left is compared here.

    Raises:
        StreamError: a class would be left without a training or test file, or a task without a validation file; two
            splits hold equal content.
    """
    from mmcl_fast.streams.broken_samples import without
    from mmcl_fast.streams.validate import validate_content

    samples = samples_of(stream)
    found = faults(samples, workers=workers, progress=progress, settings=settings)
    if found and progress is not None:
        progress.log(f"{len(found)} of {len(samples)} samples do not decode and are left out, first: {found[0].reason}")
    kept = without(stream, found)
    if not kept.official:
        validate_content(samples_of(kept))
    return kept
