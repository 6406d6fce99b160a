"""Test samples of a finished run for its report: embeddings, predictions, and a small picture or some words of each.

They are written when learning is over. So the report needs neither the data nor the encoder.
"""

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
from mmcl_fast.runs.sample_file import SAMPLES_FILE, ReportSample, ReportSamples, write_samples
from mmcl_fast.streams.sample import ClassId, Sample
from mmcl_fast.streams.stream import Stream

if TYPE_CHECKING:
    from mmcl_fast.learning.learner import Learner

PLOT_SAMPLES = 400  # samples of the plot, equally many of each modality
EXAMPLES_PER_CLASS = 10  # examples of a forgotten class
PICTURE_SIDE = 96  # pixels
PICTURE_FRAMES = 4  # pictures of a video
WEBP_QUALITY = 45
TEXT_LENGTH = 160  # characters
BATCH = 32
COLOUR_MAPPED = ("audio", "depth")  # one plane of numbers, which a colour map makes visible


def write_report_samples(run: Path, learner: Learner, stream: Stream, summary: dict[str, Any]) -> None:
    """Write samples.safetensors into a finished run's folder, unless it is there.

    Args:
        run: the run folder.
        learner: the learner after the last task.
        stream: the run's stream.
        summary: the values of summary.json.

    Raises:
        UserError: a file that the trunk must read again is broken, or the folder cannot be written.
    """
    if (run / SAMPLES_FILE).exists():
        return
    setting = next(iter(summary["settings"]))
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    forgotten = (find_forgotten_classes(summary["tasks"], events, setting) or [])[:MAX_LISTED]
    chosen = _choose_samples(stream, {(found.task, found.class_index) for found in forgotten})
    parts = []
    with learner.method.phase("samples for the report", sum(map(len, chosen.values()))) as bar:
        for modality, samples in chosen.items():
            parts.append(_predict(learner, modality, samples, given=setting != "agnostic"))
            bar.advance(len(samples))
    predicted = [sample for part, _ in parts for sample in part]
    # The file lists the classes in use only, so the learner's ids become positions among those.
    used = sorted({k for sample in predicted for k in (sample.label, sample.guess)})
    position = {k: i for i, k in enumerate(used)}
    write_samples(
        run / SAMPLES_FILE,
        ReportSamples(
            setting,
            [dataclasses.replace(s, label=position[s.label], guess=position[s.guess]) for s in predicted],
            {name: _float16(torch.cat([e[name] for _, e in parts])) for name in parts[0][1]},
            [learner.classes.keys[k] for k in used],
            _float16(learner.classes.embedding[used]),
        ),
    )


@dataclasses.dataclass(frozen=True)
class _Chosen:
    sample: Sample
    task: int  # from 1
    label: ClassId
    example: bool  # True: an example of a forgotten class
    drawn: bool = False  # True: a sample of the plot


def _choose_samples(stream: Stream, forgotten: set[tuple[int, int]]) -> dict[str, list[_Chosen]]:
    """Choose test samples of each modality: for the plot, one of each class in turn, and examples of forgotten classes.

    Args:
        forgotten: (task from 1, position of the class in it) of each forgotten class.
    """
    queues: dict[str, list[list[_Chosen]]] = {}  # modality -> for each class its samples, shuffled
    for number, task in enumerate(stream.tasks, 1):
        by_class: dict[str, list[Sample]] = {name: [] for name in task.classes}
        for sample in task.test:
            by_class[sample.label].append(sample)
        for index, (samples, label) in enumerate(zip(by_class.values(), task.class_ids)):
            random.Random(0).shuffle(samples)
            examples = EXAMPLES_PER_CLASS if (number, index) in forgotten else 0
            queues.setdefault(task.modality, []).append(
                [_Chosen(s, number, label, turn < examples) for turn, s in enumerate(samples)]
            )
    out, share = {}, PLOT_SAMPLES // max(len(queues), 1)
    for modality, classes in queues.items():
        in_turns = [item for turn in zip_longest(*classes) for item in turn if item is not None]
        out[modality] = [dataclasses.replace(item, drawn=True) for item in in_turns[:share]]
        out[modality] += [item for item in in_turns[share:] if item.example]
    return out


@torch.no_grad()
def _predict(
    learner: Learner, modality: str, chosen: list[_Chosen], given: bool
) -> tuple[list[ReportSample], dict[str, Tensor]]:
    """Predict samples of one modality.

    Returns:
        The samples, with ``label`` and ``guess`` as ids of the learner's classes, and their embeddings by name.
    """
    samples = [item.sample for item in chosen]
    tokens = learner.cache.tokens(learner.encoder, samples)
    embeddings = learner.method.embeddings(tokens, modality)
    guesses = learner.method.scores(tokens, modality, learner.classes, given=given).argmax(1).tolist()
    previews = _previews(learner, modality, samples)
    out = [
        ReportSample(
            modality, item.task, item.sample.key, learner.classes.ids[item.label], guess, item.drawn, **preview
        )
        for item, guess, preview in zip(chosen, guesses, previews)
    ]
    return out, embeddings


def _previews(learner: Learner, modality: str, samples: list[Sample]) -> list[dict[str, Any]]:
    """Return ``picture`` or ``text`` of each sample; an empty dict where the file cannot be read again."""
    spec = learner.spec(modality)
    if not isinstance(spec, TextSpec):
        frames = min(PICTURE_FRAMES, spec.frames)
        spec = dataclasses.replace(spec, size=PICTURE_SIDE, frames=frames, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    engine = ThreadEngine(spec, workers=learner.cache.workers)
    out: list[dict[str, Any]] = [{} for _ in samples]
    batches = [range(i, min(i + BATCH, len(samples))) for i in range(0, len(samples), BATCH)]
    for chunk in engine.run(samples, batches):
        for slot, index in enumerate(chunk.indices):
            if slot not in chunk.faults:
                data = chunk.data[slot]
                out[index] = {"text": _shorten(data)} if isinstance(data, str) else {"picture": _webp(data, modality)}
    return out


def _shorten(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= TEXT_LENGTH else f"{words[: TEXT_LENGTH - 1]}…"


def _webp(frames: Tensor, modality: str) -> bytes:
    """Return a WebP file of frames ``[F, 3, S, S]`` with values 0 to 1, side by side."""
    from PIL import Image

    pixels = (frames.permute(2, 0, 3, 1).flatten(1, 2).clamp(0, 1) * 255).round().byte().numpy()  # [S, F S, 3]
    if modality in COLOUR_MAPPED:
        pixels = _colour_map()[pixels[..., 0]]
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "WEBP", quality=WEBP_QUALITY, method=2)
    return out.getvalue()


@cache
def _colour_map() -> np.ndarray:
    """Return ``[256, 3]`` uint8: cividis, which looks the same to colour-blind people."""
    from plotly.colors import sample_colorscale

    return (np.array(sample_colorscale("Cividis", 256, colortype="tuple")) * 255).round().astype(np.uint8)


def _float16(x: Tensor) -> np.ndarray:
    return x.half().cpu().numpy()
