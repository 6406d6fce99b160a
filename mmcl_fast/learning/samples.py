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
import safetensors
import safetensors.numpy
import torch
from torch import Tensor

from mmcl_fast.errors import RunError
from mmcl_fast.learning import files
from mmcl_fast.learning.falls import falls
from mmcl_fast.media.engine import ThreadEngine
from mmcl_fast.media.spec import TextSpec
from mmcl_fast.streams.sample import ClassId, Sample
from mmcl_fast.streams.stream import Stream

if TYPE_CHECKING:
    from mmcl_fast.learning.learner import Learner

FILE = "samples.safetensors"
DRAWN = 400  # samples of the plot, as many of each modality
FALLEN, EACH = 12, 10  # classes that fell most, of which so many samples are there for examples
SIDE, FRAMES, QUALITY, WORDS = 96, 4, 45, 160  # pixels of a picture, pictures of a video, of WebP, letters of a text
MAPPED = ("audio", "depth")  # one plane of numbers: shown by a colour map


@dataclasses.dataclass(frozen=True)
class Shown:
    """A test sample as a report shows it.

    Attributes:
        task: number of its task, from 1.
        key: its identity in the stream.
        label, guess: what it is and what it is taken for, places in ``Samples.classes``.
        drawn: whether it is one of the plot's, which are balanced; the others are there as examples.
        picture: a WebP file, frames of a video side by side; ``text``: the first letters. Both are None where the
            file could not be read again.
    """

    modality: str
    task: int
    key: str
    label: int
    guess: int
    drawn: bool
    picture: bytes | None = None
    text: str | None = None


@dataclasses.dataclass(frozen=True)
class Samples:
    """n samples, and the C classes that they are of or taken for.

    Attributes:
        setting: that ``guess`` is of.
        embeddings: what it is -> ``[n, D]`` float16, unit rows; see ``Method.embeddings``.
        texts: ``[C, D]`` float16, the class texts, unit rows.
    """

    setting: str
    samples: list[Shown]
    embeddings: dict[str, np.ndarray]
    classes: list[ClassId]
    texts: np.ndarray


def write(run: Path, learner: Learner, stream: Stream, summary: dict[str, Any]) -> None:
    """Write ``samples.safetensors`` into a finished run's folder, unless it is there.

    Raises:
        UserError: a file that the trunk has to see again is broken, or the folder can't be written.
    """
    if (run / FILE).exists():
        return
    setting = next(iter(summary["settings"]))
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    fallen = (falls(summary["tasks"], events, setting) or [])[:FALLEN]
    chosen = _choose(stream, {(fall.task, fall.place) for fall in fallen})
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


def save(file: Path, found: Samples) -> None:
    pictures = [sample.picture or b"" for sample in found.samples]
    about = {
        "setting": found.setting,
        "embeddings": list(found.embeddings),
        "classes": found.classes,
        "samples": [
            {key: value for key, value in vars(sample).items() if key != "picture"} | {"bytes": len(picture)}
            for sample, picture in zip(found.samples, pictures)
        ],
    }
    tensors = {f"embedding/{k}": e for k, e in enumerate(found.embeddings.values())}
    tensors |= {"texts": found.texts, "pictures": np.frombuffer(b"".join(pictures), np.uint8)}
    files.replace(file, safetensors.numpy.save(tensors, {"samples": json.dumps(about)}))


def read(run: Path) -> Samples | None:
    """What :func:`write` wrote; None where it did not.

    Raises:
        RunError: the file is damaged.
    """
    file = run / FILE
    if not file.is_file():
        return None
    try:
        with safetensors.safe_open(file, framework="np") as opened:
            about = json.loads(opened.metadata()["samples"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        samples, start, pictures = [], 0, tensors["pictures"].tobytes()
        for one in about["samples"]:
            end = start + one.pop("bytes")
            samples.append(Shown(**one, picture=pictures[start:end] or None))
            start = end
        out = Samples(
            about["setting"],
            samples,
            {name: tensors[f"embedding/{k}"] for k, name in enumerate(about["embeddings"])},
            [(modality, name) for modality, name in about["classes"]],
            tensors["texts"],
        )
        sizes = {len(e) for e in out.embeddings.values()}
        places = {k for s in samples for k in (s.label, s.guess)}
        if sizes != {len(samples)} or len(out.texts) != len(out.classes) or not places <= set(range(len(out.classes))):
            raise ValueError("its parts are of unlike lengths")
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        raise RunError(
            f"{file}: not readable ({fault}); remove it, and mmcl-fast train --resume writes it again"
        ) from None
    return out


# ---- what is shown --------------------------------------------------------------------------------------------


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
