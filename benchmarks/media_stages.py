"""Where the time of one item goes on the CPU backend: reading, decoding, resizing, mel, normalising, the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from unittest import mock

import torch

from mmcl_fast.media import Spec, decode

# A stage's functions, by modality; the time of a function called inside another's counts for its own stage only.
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


class Clock:
    """Processor seconds by stage, each moment counted once."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.stack: list[str] = []
        self.since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._turn()
        self.stack.append(name)
        yield
        self._turn()
        self.stack.pop()

    def _turn(self) -> None:
        now = time.thread_time()
        if self.stack:
            self.spent[self.stack[-1]] = self.spent.get(self.stack[-1], 0.0) + now - self.since
        self.since = now

    def wrap(self, name: str, function: Callable) -> Callable:
        def timed(*args: object, **options: object) -> object:
            with self.stage(name):
                return function(*args, **options)

        return timed


def _place(name: str) -> tuple[object, str]:
    """The object that holds the attribute at the end of a dotted name."""
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


def shares(paths: list[Path], spec: Spec, seconds: float = 0.5) -> dict[str, float]:
    """Share of the processor time of one thread by stage, largest first; "rest" is Python and opening.

    "read" is the file's bytes from the page cache, measured on its own; what the decoder read is taken out of its
    share.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for path in paths:
        decode(path, spec.modality, spec)  # warm
    clock, read = Clock(), 0.0
    stages = {**FUNCTIONS[spec.modality]}
    stages["normalise"] = [*stages.get("normalise", []), NORMALISE]
    patches = []
    for stage, names in stages.items():
        for name in names:
            holder, attribute = _place(name)
            patches.append(mock.patch.object(holder, attribute, clock.wrap(stage, getattr(holder, attribute))))
    for patch in patches:
        patch.start()
    try:
        until = time.perf_counter() + seconds
        while not clock.spent or time.perf_counter() < until:
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
    spent = clock.spent
    source = "decode" if "decode" in spent else "rest"
    spent[READ] = min(read, spent[source])
    spent[source] -= spent[READ]
    whole = sum(spent.values())
    return {stage: value / whole for stage, value in sorted(spent.items(), key=lambda pair: -pair[1])}
