"""The check of files: decode every file of a stream before anything is learned from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmcl_fast.errors import MediaError
from mmcl_fast.streams.broken_samples import BrokenSample
from mmcl_fast.streams.equal_content import check_equal_content
from mmcl_fast.streams.sample import Sample
from mmcl_fast.streams.stream import Stream

if TYPE_CHECKING:
    from pathlib import Path

    from mmcl_fast.media.source import Slice

FILES_PER_JOB = 16  # at most; a thread hands them to a decoding process in one go
JOBS_IN_FLIGHT = 64  # jobs that wait for a thread; more would hold the whole list of a large stream in the queue


def check_files(
    data: Stream | Sequence[Sample],
    *,
    workers: int = 2,
    progress: Any = None,
    settings: Mapping[str, Any] | None = None,
) -> list[BrokenSample]:
    """Decode every file to its end and return the samples that do not decode as their modality, in order.

    Decoding runs in worker processes where the system and ``settings`` allow it. A file that kills its process is then
    in the result like any other broken file. Samples that hold their text themselves have no file and are not checked.

    Args:
        data: a stream, or some of its samples.
        workers: number of decoding processes.
        progress: a display of ``mmcl_fast.progress``; None shows nothing.
        settings: a config's [media] section: size limits, and ``isolate = False`` for decoding without processes.

    Example::

        stream = Stream.from_folder("data/")
        for broken in check_files(stream, workers=8):
            print(broken.reason)
    """
    from mmcl_fast import media
    from mmcl_fast.media.engines import isolation
    from mmcl_fast.media.engines.engine import make_thread_pool
    from mmcl_fast.media.spec import adjust
    from mmcl_fast.progress import Silent

    samples = data.samples if isinstance(data, Stream) else data
    files = [(sample, sample.path) for sample in samples if sample.path is not None]
    if not files:
        return []
    specs = {name: adjust(media.default_spec(name), settings or {}) for name in media.MODALITIES}
    workers = min(max(1, workers), len(files))
    # With few files the jobs are smaller, so that every worker gets at least two.
    size = max(1, min(FILES_PER_JOB, len(files) // (2 * workers)))
    groups = [files[start : start + size] for start in range(0, len(files), size)]
    decoders = isolation.open_decoders(settings, workers)

    def decode_group(group: Sequence[tuple[Sample, Path | Slice]]) -> list[MediaError | None]:
        jobs = [isolation.Job(path, s.modality, {s.modality: specs[s.modality]}, check_only=True) for s, path in group]
        return [outcome.error for outcome in decoders.run(jobs)]

    broken = []
    pool = make_thread_pool(workers)
    try:
        with (progress or Silent()).phase("check the files", len(files)) as shown:
            for start in range(0, len(groups), JOBS_IN_FLIGHT):
                some = groups[start : start + JOBS_IN_FLIGHT]
                for group, errors in zip(some, pool.map(decode_group, some)):
                    shown.advance(len(group))
                    broken += [BrokenSample.from_error(sample, e) for (sample, _), e in zip(group, errors) if e]
    finally:
        decoders.close()
        pool.shutdown(cancel_futures=True)
    return broken


def require_readable_files(
    stream: Stream, *, workers: int = 2, progress: Any = None, settings: Mapping[str, Any] | None = None
) -> None:
    """Decode every file as ``check_files`` does, with the same arguments.

    Raises:
        MediaError: a file does not decode. The message has the first one and the number of the others.
    """
    broken = check_files(stream, workers=workers, progress=progress, settings=settings)
    if broken:
        more = f"{len(broken) - 1} more: mmcl-fast data check lists them; " if broken[1:] else ""
        raise MediaError(f'{broken[0].reason} ({more}stream.on_broken = "skip" leaves out broken samples)')


def skip_broken_samples(
    stream: Stream, *, workers: int = 2, progress: Any = None, settings: Mapping[str, Any] | None = None
) -> Stream:
    """Decode every file and return the stream without the samples that do not decode.

    The arguments are as in ``check_files``. ``skipped`` of the result lists the samples that were left out. Build the
    stream with ``check=False``, because broken files are often equal to each other. This function then compares the
    contents of the remaining files itself.

    Raises:
        StreamError: a class would lose its last training or test file, or a task its last validation file; or two
            splits hold equal content.
    """
    samples = stream.samples
    broken = check_files(samples, workers=workers, progress=progress, settings=settings)
    if broken and progress is not None:
        progress.log(
            f"{len(broken)} of {len(samples)} samples do not decode and are left out, first: {broken[0].reason}"
        )
    remaining = stream.without_broken(broken)
    if not remaining.official:
        check_equal_content(remaining.samples)
    return remaining
