"""Samples and tasks: names and paths only. Nothing here opens a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmcl_fast.media.source import Slice

SPLITS = ("train", "val", "test")
ClassId = tuple[str, str]  # (modality, class name)


def aliases_to_values(aliases: Mapping[ClassId, ClassId]) -> list[list[list[str]]]:
    """Return JSON values of aliases: the former key of each renamed class, and its key of today."""
    return [[list(former), list(now)] for former, now in aliases.items()]


def aliases_from_values(values: Iterable[Sequence[Sequence[str]]]) -> dict[ClassId, ClassId]:
    """Return the aliases that ``aliases_to_values`` gave."""
    return {(former[0], former[1]): (now[0], now[1]) for former, now in values}


@dataclass(frozen=True)
class Sample:
    """One labelled item of a stream.

    Attributes:
        modality: image, video, audio, depth or text, or the name of a modality of your own.
        label: class name within the modality.
        path: the file, or the byte range of a tar that holds it; None where ``text`` holds the item itself.
        text: the item itself, or None.
        split: train, val or test.
        key: stable identity in the stream: path relative to the root, manifest id, or hash of the text.
        group: names the recording or picture that the sample was cut or rendered from; empty: the sample stands for
            itself. Intervals resample groups as wholes.
        sha256: of the content in hex, as ``feature_cache.content_hashes`` computes it, from when the sample was
            learned; empty: unknown.
    """

    modality: str
    label: str
    path: Path | Slice | None
    text: str | None
    split: str
    key: str
    group: str = ""
    sha256: str = ""


@dataclass
class Task:
    """Classes of one modality that are learned together.

    Attributes:
        index: position in the stream.
        name: for example ``image-0``, or the name that a manifest gives.
        classes: class names; a sample's ``label`` is one of them.
        class_ids: ``(modality, name)`` of each class, its identity in ``Stream.classes``. With shared classes the
            modality is the one in which the name first appeared.
        texts: class text of each class, as given to the text tower.
    """

    index: int
    name: str
    modality: str
    classes: tuple[str, ...]
    class_ids: tuple[ClassId, ...]
    texts: tuple[str, ...]
    _samples: tuple[Sample, ...] = field(repr=False, default=())

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All samples, of all splits."""
        return self._samples

    def split(self, name: str) -> list[Sample]:
        """Return the samples of a split: ``train``, ``val`` or ``test``."""
        return [sample for sample in self._samples if sample.split == name]

    @property
    def train(self) -> list[Sample]:
        return self.split("train")

    @property
    def val(self) -> list[Sample]:
        return self.split("val")

    @property
    def test(self) -> list[Sample]:
        return self.split("test")
