"""The file of some test samples that a run keeps for its report, and its contents."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors
import safetensors.numpy

from mmcl_fast import atomic_files as files
from mmcl_fast.errors import RunError

if TYPE_CHECKING:
    from mmcl_fast.streams.sample import ClassId

FILE = "samples.safetensors"


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
