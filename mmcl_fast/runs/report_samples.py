"""Some test samples of a finished run for its report: where they lie, what they are taken for, and of each a small
picture or its first words. Written when learning is over, so that the report needs neither the data nor the encoder."""

from __future__ import annotations

import dataclasses
import io
import json
import random
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mmcl_fast.learning.forgotten_classes import MAX_LISTED, find_forgotten_classes
from mmcl_fast.media.engines.engine import ThreadEngine
from mmcl_fast.media.spec import TextSpec
from mmcl_fast.runs.sample_file import FILE, Samples, Shown, save
from mmcl_fast.streams.sample import ClassId, Sample
from mmcl_fast.streams.stream import Stream

if TYPE_CHECKING:
    from mmcl_fast.learning.learner import Learner

DRAWN = 400  # samples of the plot, as many of each modality
EACH = 10  # samples of a class that fell, for examples
SIDE, FRAMES, QUALITY, WORDS = 96, 4, 45, 160  # pixels of a picture, pictures of a video, of WebP, letters of a text
MAPPED = ("audio", "depth")  # one plane of numbers: shown by a colour map


def write(run: Path, learner: Learner, stream: Stream, summary: dict[str, Any]) -> None:
    """Write ``samples.safetensors`` into a finished run's folder, unless it is there.

    Raises:
        UserError: a file that the trunk has to see again is broken, or the folder can't be written.
    """
    if (run / FILE).exists():
        return
    setting = next(iter(summary["settings"]))
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    fallen = (find_forgotten_classes(summary["tasks"], events, setting) or [])[:MAX_LISTED]
    chosen = _choose(stream, {(fall.task, fall.class_index) for fall in fallen})
    with learner.method.phase("samples for the report", sum(map(len, chosen.values()))) as shown:
        found = []
        for modality, some in chosen.items():
            found.append(_found(learner, modality, some, given=setting != "agnostic"))
            shown.advance(len(some))
    samples = [sample for part, _ in found for sample in part]
    used = sorted({k for sample in samples for k in (sample.label, sample.guess)})
    place = {k: new for new, k in enumerate(used)}
    save(
        run / FILE,
        Samples(
            setting,
            [dataclasses.replace(s, label=place[s.label], guess=place[s.guess]) for s in samples],
            {name: _half(torch.cat([e[name] for _, e in found])) for name in found[0][1]},
            [learner.classes.keys[k] for k in used],
            _half(learner.classes.embedding[used]),
        ),
    )


@dataclasses.dataclass(frozen=True)
class _Chosen:
    sample: Sample
    task: int
    label: ClassId
    example: bool
    drawn: bool = False


def _choose(stream: Stream, fallen: set[tuple[int, int]]) -> dict[str, list[_Chosen]]:
    """Modality -> its samples: ``DRAWN`` over all modalities, by turns one of each class; and of the classes
    (task, place) that fell ``EACH``."""
    queues: dict[str, list[list[_Chosen]]] = {}
    for number, task in enumerate(stream.tasks, 1):
        own: dict[str, list[Sample]] = {name: [] for name in task.classes}
        for sample in task.test:
            own[sample.label].append(sample)
        for place, (some, label) in enumerate(zip(own.values(), task.class_ids)):
            random.Random(0).shuffle(some)
            wanted = EACH if (number, place) in fallen else 0
            queues.setdefault(task.modality, []).append(
                [_Chosen(s, number, label, turn < wanted) for turn, s in enumerate(some)]
            )
    out, share = {}, DRAWN // max(len(queues), 1)
    for modality, classes in queues.items():
        turns = [one for turn in zip_longest(*classes) for one in turn if one is not None]
        out[modality] = [dataclasses.replace(one, drawn=True) for one in turns[:share]]
        out[modality] += [one for one in turns[share:] if one.example]
    return out


@torch.no_grad()
def _found(
    learner: Learner, modality: str, chosen: list[_Chosen], given: bool
) -> tuple[list[Shown], dict[str, Tensor]]:
    """Samples of one modality, ``label`` and ``guess`` as ids of the learner's classes, and their embeddings."""
    samples = [one.sample for one in chosen]
    tokens = learner.cache.tokens(learner.encoder, samples)
    embeddings = learner.method.embeddings(tokens, modality)
    guesses = learner.method.scores(tokens, modality, learner.classes, given=given).argmax(1).tolist()
    shown = [
        Shown(modality, one.task, one.sample.key, learner.classes.place[one.label], guess, one.drawn, **look)
        for one, guess, look in zip(chosen, guesses, _looks(learner, modality, samples))
    ]
    return shown, embeddings


def _looks(learner: Learner, modality: str, samples: list[Sample]) -> list[dict[str, Any]]:
    """``picture`` or ``text`` of each sample; nothing where its file is gone."""
    spec = learner.spec(modality)
    if not isinstance(spec, TextSpec):
        frames = min(FRAMES, spec.frames)
        spec = dataclasses.replace(spec, size=SIDE, frames=frames, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    engine = ThreadEngine(spec, workers=learner.cache.workers)
    out: list[dict[str, Any]] = [{} for _ in samples]
    for chunk in engine.run(samples, [range(i, min(i + 32, len(samples))) for i in range(0, len(samples), 32)]):
        for slot, index in enumerate(chunk.indices):
            if slot not in chunk.faults:
                data = chunk.data[slot]
                out[index] = {"text": _first(data)} if isinstance(data, str) else {"picture": _picture(data, modality)}
    return out


def _first(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= WORDS else f"{words[: WORDS - 1]}…"


def _picture(frames: Tensor, modality: str) -> bytes:
    """``[F, 3, S, S]`` in 0..1 -> a WebP file, the frames side by side."""
    from PIL import Image

    pixels = (frames.permute(2, 0, 3, 1).flatten(1, 2).clamp(0, 1) * 255).round().byte().numpy()  # [S, F S, 3]
    if modality in MAPPED:
        pixels = _colours()[pixels[..., 0]]
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "WEBP", quality=QUALITY, method=2)
    return out.getvalue()


@cache
def _colours() -> np.ndarray:
    """``[256, 3]`` uint8: cividis, which reads the same for colour-blind people."""
    from plotly.colors import sample_colorscale

    return (np.array(sample_colorscale("Cividis", 256, colortype="tuple")) * 255).round().astype(np.uint8)


def _half(x: Tensor) -> np.ndarray:
    return x.half().cpu().numpy()
