"""The trunk tokens of a run's test and validation samples: later versions need their files no more."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mmcl_fast.errors import StreamError
from mmcl_fast.feature_cache.cache import FeatureCache
from mmcl_fast.feature_cache.kept_tokens import has_tokens, keep_tokens, link, take_back
from mmcl_fast.learning import Learner
from mmcl_fast.media.source import Slice
from mmcl_fast.streams.sample import Sample
from mmcl_fast.streams.stream import Stream

TOKENS_FOLDER = "test_tokens"


def keep_test_tokens(run: Path, learner: Learner, stream: Stream, most_gb: float) -> str:
    """Keep the trunk tokens of the stream's test and validation samples, as far as they fit ``most_gb``.

    Returns:
        A line about what did not fit; empty: everything did.

    Raises:
        UserError: the folder cannot be written.
    """
    if not most_gb:
        return ""
    kept = total = 0
    for samples in _held_out_samples(stream).values():
        total += len(samples)
        kept += keep_tokens(learner.cache, learner.encoder, samples, run / TOKENS_FOLDER, most_gb * 1e9)
    if kept == total:
        return ""
    return (
        f"trunk tokens of {kept} of {total} test and validation samples are kept in {run / TOKENS_FOLDER} "
        f"(train.keep_test_gb = {most_gb:g}); later versions need the files of the others"
    )


def copy_test_tokens(base: Path, folder: Path) -> None:
    """Give a new version the tokens that its parent keeps."""
    if (base / TOKENS_FOLDER).is_dir():
        shutil.copytree(base / TOKENS_FOLDER, folder / TOKENS_FOLDER, copy_function=link)


def restore_test_tokens(run: Path, cache: FeatureCache, stream: Stream) -> None:
    """Give a cache the tokens that a run folder keeps, if a test or validation file is gone."""
    if any(not _is_there(sample) for some in _held_out_samples(stream).values() for sample in some):
        take_back(cache, run / TOKENS_FOLDER)


def testable_tasks(learned: Stream, base: Path, learner: Learner, say: Callable[[str], None]) -> Stream:
    """Return the tasks without the held-out samples that can't be asked again; ``say`` how many these are.

    A sample can be asked again while its file has the content that was learned, or its tokens are kept.

    Args:
        learned: the tasks that a version has learned.
        base: its run folder.
        learner: any learner with the version's encoder and cache.
        say: takes a line for the user.

    Raises:
        StreamError: a task would have no test sample.
    """
    gone = {m: [s for s in some if not _is_there(s)] for m, some in _held_out_samples(learned).items()}
    there = {
        m: [s for s in some if s.path is not None and _is_there(s)] for m, some in _held_out_samples(learned).items()
    }
    lost: dict[str, str] = {}
    for samples in there.values():
        for sample, digest in zip(samples, learner.cache.contents.digests(samples)):
            if sample.sha256 and digest.hex() != sample.sha256:
                lost[sample.key] = f"{sample.path}: another content than when it was learned"
    restore_test_tokens(base, learner.cache, learned)
    for samples in gone.values():
        known = [sample for sample in samples if sample.sha256]
        found = has_tokens(learner.cache, learner.encoder, known) if known else []
        kept = {sample.key for sample, has in zip(known, found) if has}
        why = "gone, and its trunk tokens are not kept"
        lost |= {s.key: f"{s.path or s.key}: {why}" for s in samples if s.key not in kept}
    if not lost:
        return learned
    say(f"{len(lost)} old test and validation samples can't be asked again, for example {next(iter(lost.values()))}")
    tasks = []
    for task in learned.tasks:
        remaining = tuple(s for s in task.samples if s.split == "train" or s.key not in lost)
        if not any(s.split == "test" for s in remaining):
            example = next(lost[s.key] for s in task.test)
            raise StreamError(f"{base}: task {task.name} has no test sample left ({example}); restore its files")
        tasks.append(replace(task, _samples=remaining))
    return Stream.from_tasks(tasks, learned.root, shared_classes=learned.shared_classes)


def _held_out_samples(stream: Stream) -> dict[str, Sequence[Sample]]:
    """Return the test samples of each modality, then its validation samples."""
    out: dict[str, dict[str, Sample]] = {}  # a sample may test several tasks
    for split in ("test", "val"):
        for task in stream.tasks:
            out.setdefault(task.modality, {}).update((sample.key, sample) for sample in task.split(split))
    return {modality: list(samples.values()) for modality, samples in out.items() if samples}


def _is_there(sample: Sample) -> bool:
    path = sample.path.path if isinstance(sample.path, Slice) else sample.path
    return bool(sample.text) if path is None else Path(path).exists()  # a private run keeps no texts
