"""The file of test samples that a run keeps for its report: samples.safetensors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors
import safetensors.numpy

from mmcl_fast import atomic_files
from mmcl_fast.errors import RunError

if TYPE_CHECKING:
    from mmcl_fast.streams.sample import ClassId

SAMPLES_FILE = "samples.safetensors"


@dataclasses.dataclass(frozen=True)
class ReportSample:
    """A test sample as a report shows it. The fields are keys of the file.

    Attributes:
        modality: its modality.
        task: number of its task, from 1.
        key: its identity in the stream.
        label: its true class, a position in ``ReportSamples.classes``.
        guess: its predicted class, likewise.
        drawn: True for the samples of the plot, which are balanced over classes. The others are examples only.
        picture: a WebP file; the frames of a video side by side. None for text, and where the file is gone.
        text: the first words of a text; None for the other modalities.
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
class ReportSamples:
    """n samples, and the C classes that are their true or predicted ones.

    Attributes:
        setting: the setting in which they were predicted, such as ``agnostic``.
        samples: n samples.
        embeddings: name of an embedding -> ``[n, D]`` float16, unit rows; see ``Method.embeddings``.
        classes: C classes (modality, name).
        texts: ``[C, D]`` float16, embeddings of the class texts, unit rows.
    """

    setting: str
    samples: list[ReportSample]
    embeddings: dict[str, np.ndarray]
    classes: list[ClassId]
    texts: np.ndarray


def write_samples(file: Path, found: ReportSamples) -> None:
    """Write the samples into one safetensors file, with the pictures' bytes joined.

    Raises:
        RunError: the file cannot be written.
    """
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
    atomic_files.replace_file(file, safetensors.numpy.save(tensors, {"samples": json.dumps(about)}))


def read_samples(run: Path) -> ReportSamples | None:
    """Read the samples of a run folder; return None where it has none.

    Raises:
        RunError: the file is damaged.
    """
    file = run / SAMPLES_FILE
    if not file.is_file():
        return None
    try:
        with safetensors.safe_open(file, framework="np") as opened:
            about = json.loads(opened.metadata()["samples"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        samples, start, pictures = [], 0, tensors["pictures"].tobytes()
        for values in about["samples"]:
            end = start + values.pop("bytes")
            samples.append(ReportSample(**values, picture=pictures[start:end] or None))
            start = end
        out = ReportSamples(
            about["setting"],
            samples,
            {name: tensors[f"embedding/{k}"] for k, name in enumerate(about["embeddings"])},
            [(modality, name) for modality, name in about["classes"]],
            tensors["texts"],
        )
        sizes = {len(e) for e in out.embeddings.values()}
        used = {k for s in samples for k in (s.label, s.guess)}
        if sizes != {len(samples)} or len(out.texts) != len(out.classes) or not used <= set(range(len(out.classes))):
            raise ValueError("its parts are of unlike lengths")
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        raise RunError(
            f"{file}: not readable ({fault}); remove it, and mmcl-fast train --resume writes it again"
        ) from None
    return out
