"""Processor time of one item on the cpu backend by stage: read, decode, resize, mel, normalise and the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from unittest import mock

import torch

from mmcl_fast.media import Spec, decode

# The functions of each stage, by modality. A function called by another stage's function counts for its own stage only.
FUNCTIONS = {
    "image": {
        "decode": [
            "PIL.ImageFile.ImageFile.load",
            "PIL.WebPImagePlugin.WebPImageFile.load",
            "mmcl_fast.media.readers.image.pillow_image._decode_plain_png",
            "mmcl_fast.media.readers.image.jpeg.decode_plain",
        ],
        "resize": [
            "mmcl_fast.media.readers.image.pillow_image.to_square",
            "mmcl_fast.media.readers.image.pillow_image._resize_tensor",
        ],
    },
    "depth": {
        "decode": ["mmcl_fast.media.readers.depth.depth_files.read_plane"],
        "resize": ["mmcl_fast.media.readers.depth.depth_to_image.crop_and_resize"],
        "normalise": ["mmcl_fast.media.readers.depth.depth_files.to_image"],
    },
    "video": {
        "open": ["mmcl_fast.media.readers.video.video.open_av"],
        "decode": ["mmcl_fast.media.readers.video.frame_reader.FrameReaderByTime.frame_at"],
        "resize": ["mmcl_fast.media.readers.video.video._scale_frame"],
    },
    "audio": {
        "decode": ["mmcl_fast.media.readers.audio.audio.read_wave"],
        "resample": ["mmcl_fast.media.readers.audio.audio.resample"],
        "mel": ["mmcl_fast.media.dsp.mel._kernel_power", "mmcl_fast.media.dsp.mel._torch_power"],
        "resize": ["mmcl_fast.media.dsp.mel.log_mel_image"],
    },
    "text": {},
}
READ, NORMALISE = "read", "mmcl_fast.media.decode.normalise"


class StageClock:
    """Processor seconds of this thread by stage. Time in an inner stage does not count for the outer one.

    Attributes:
        seconds: by stage.
        stack: the stages that run now, the innermost last.
        since: the time from which the innermost stage counts.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.stack: list[str] = []
        self.since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside for one stage."""
        self._count()
        self.stack.append(name)
        yield
        self._count()
        self.stack.pop()

    def _count(self) -> None:
        now = time.thread_time()
        if self.stack:
            self.seconds[self.stack[-1]] = self.seconds.get(self.stack[-1], 0.0) + now - self.since
        self.since = now

    def wrap(self, name: str, function: Callable) -> Callable:
        """Return the function with its time counted for one stage."""

        def timed(*args: object, **options: object) -> object:
            with self.stage(name):
                return function(*args, **options)

        return timed


def _find_attribute(name: str) -> tuple[object, str]:
    """Return the module or class that holds the last part of a dotted name, and that part."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            holder = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:-1]:
            holder = getattr(holder, part)
        return holder, parts[-1]
    raise ModuleNotFoundError(name)


def stage_shares(paths: list[Path], spec: Spec, seconds: float = 0.5) -> dict[str, float]:
    """Return each stage's share of the processor time of one thread, largest first.

    "rest" is Python and opening. "read" is the time to read a file's bytes from the page cache. It is measured apart,
    and subtracted from the stage that reads the file.

    Args:
        paths: files of the spec's modality.
        spec: the modality's spec.
        seconds: the shortest time to measure.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for path in paths:
        decode(path, spec.modality, spec)  # the first call makes tables and fills the page cache
    clock, read = StageClock(), 0.0
    stages = {**FUNCTIONS[spec.modality]}
    stages["normalise"] = [*stages.get("normalise", []), NORMALISE]
    patches = []
    for stage, names in stages.items():
        for name in names:
            holder, attribute = _find_attribute(name)
            patches.append(mock.patch.object(holder, attribute, clock.wrap(stage, getattr(holder, attribute))))
    for patch in patches:
        patch.start()
    try:
        until = time.perf_counter() + seconds
        while not clock.seconds or time.perf_counter() < until:
            for path in paths:
                with clock.stage("rest"):
                    decode(path, spec.modality, spec)
                start = time.thread_time()
                path.read_bytes()
                read += time.thread_time() - start
    finally:
        for patch in patches:
            patch.stop()
        torch.set_num_threads(threads)
    by_stage = clock.seconds
    reading_stage = "decode" if "decode" in by_stage else "rest"
    # The bytes are read a second time here, so that a clock's noise could make the rest of the stage negative.
    by_stage[READ] = min(read, by_stage[reading_stage])
    by_stage[reading_stage] -= by_stage[READ]
    total = sum(by_stage.values())
    return {stage: value / total for stage, value in sorted(by_stage.items(), key=lambda pair: -pair[1])}
