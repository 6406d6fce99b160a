"""What a stream must hold before anything is learned from it. Only names and sizes are looked at."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from mmcl_fast.errors import StreamError, meant
from mmcl_fast.media.source import Slice, Source, open_binary, size_of
from mmcl_fast.media.spec import BUILT_IN, MODALITIES
from mmcl_fast.streams.sample import SPLITS, Sample

_AUDIO_VIDEO = frozenset({"audio", "video"})
# Which modalities a file name's ending may stand for; endings not listed are told by their content.
ENDINGS = {
    **dict.fromkeys(("jpg", "jpeg", "bmp", "heic", "avif"), frozenset({"image"})),
    **dict.fromkeys(("png", "tif", "tiff"), frozenset({"image", "depth"})),
    **dict.fromkeys(("gif", "webp", "apng"), frozenset({"image", "video"})),
    **dict.fromkeys(("npy", "exr"), frozenset({"depth"})),
    **dict.fromkeys(("wav", "flac", "mp3", "opus", "m4a", "aac"), frozenset({"audio"})),
    **dict.fromkeys(("mp4", "webm", "mkv", "mov", "ogg"), _AUDIO_VIDEO),
    **dict.fromkeys(("avi", "mpg", "mpeg", "m4v"), frozenset({"video"})),
    **dict.fromkeys(("txt", "md"), frozenset({"text"})),
}


def check_modality(name: str, where: str) -> None:
    if name not in MODALITIES:
        raise StreamError(
            f"{where}: unknown modality {name!r}{meant(name, MODALITIES)}: use one of {', '.join(MODALITIES)}"
        )


def check_split(name: str, where: str) -> None:
    if name not in SPLITS:
        raise StreamError(f"{where}: unknown split {name!r}{meant(name, SPLITS)}: use {', '.join(SPLITS)}")


def check_words(text: str, where: str) -> None:
    """Refuses what neither a name nor a sentence can hold; ``where`` names the field."""
    if "\0" in text:
        raise StreamError(f"{where} holds a zero byte: correct it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise StreamError(f"{where} holds half a character (a lone surrogate): correct it") from None


def check_task(name: str, samples: Sequence[Sample], root: Path) -> None:
    """Refuses a task that cannot be learned or not be tested."""
    for split, word in (("train", "training"), ("test", "test")):
        if not any(sample.split == split for sample in samples):
            labels = list(dict.fromkeys(sample.label for sample in samples))
            classes = f"class{'es' if len(labels) > 1 else ''} {', '.join(map(repr, labels))}"
            raise StreamError(
                f"{root}: task {name!r} ({classes}) has no {word} file: add some under its "
                f"{split} split, or put these classes into a larger task"
            )


def check_file(path: Path | str | Slice, modality: str, where: str, *, empty: bool = False) -> tuple[int, int, int]:
    """Refuses a missing or (unless ``empty``) an empty file and an ending of another modality; returns (device,
    inode, offset)."""
    try:
        stat = os.stat(path.path if isinstance(path, Slice) else path)
    except OSError as error:
        reason = error.strerror or error
        raise StreamError(f"{where}: {reason}: restore the file or remove its entry") from None
    if (path.size if isinstance(path, Slice) else stat.st_size) == 0 and not empty:
        raise StreamError(f"{where}: the file is empty: replace or remove it")
    ending = os.path.splitext(str(path))[1].lstrip(".").lower()
    if modality in BUILT_IN and ending in ENDINGS and modality not in ENDINGS[ending]:
        raise StreamError(
            f"{where}: a .{ending} file cannot be {modality}: rename it by content, or move "
            f"it to {' or '.join(sorted(ENDINGS[ending]))}"
        )
    return stat.st_dev, stat.st_ino, path.offset if isinstance(path, Slice) else 0


def validate(samples: Sequence[Sample], root: Path, *, keep_empty: bool = False) -> None:
    """Raises StreamError for splits or classes that cannot be learned from or tested, and for files at fault."""
    if not samples:
        raise StreamError(f"{root}: no samples: expected <modality>/<split>/<class>/<file> or manifest lines")
    keys: set[str] = set()
    files: dict[tuple[int, int, int], Sample] = {}
    held: dict[tuple[str, str], set[str]] = {}
    for sample in samples:
        if sample.key in keys:
            raise StreamError(f"{sample.key}: listed twice: each sample needs its own path or id")
        keys.add(sample.key)
        try:
            sample.key.encode()
        except UnicodeEncodeError:
            raise StreamError(f"{sample.key!r}: its name is not UTF-8: rename file or folder") from None
        held.setdefault((sample.modality, sample.label), set()).add(sample.split)
        if sample.path is not None:
            identity = check_file(sample.path, sample.modality, str(sample.path), empty=keep_empty)
            other = files.setdefault(identity, sample)
            if other.split != sample.split:
                raise StreamError(_shared(other, sample))
    for (modality, label), splits in held.items():
        if "train" not in splits:
            raise StreamError(
                f"{root}: class {label!r} of {modality} has no training file: "
                "add some under its train split or remove the class"
            )
    for modality in dict.fromkeys(modality for modality, _ in held):
        if not any("test" in splits for (own, _), splits in held.items() if own == modality):
            raise StreamError(f"{root}: {modality} has no test split: add test files")


def validate_content(samples: Sequence[Sample]) -> None:
    """Raises StreamError where two splits hold equal content. Reads only files whose sizes agree."""
    groups: dict[tuple, list[Sample]] = {}
    for sample in samples:
        size = sample.text if sample.path is None else size_of(sample.path)
        groups.setdefault((sample.modality, size), []).append(sample)
    for (_, size), group in groups.items():
        if len({sample.split for sample in group}) < 2:
            continue
        seen: dict[str, Sample] = {}
        for sample in group:
            digest = size if sample.path is None else _digest(sample.path)
            other = seen.setdefault(digest, sample)
            if other.split != sample.split:
                raise StreamError(_shared(other, sample, "equal content in"))


def _shared(a: Sample, b: Sample, what: str = "one file in") -> str:
    return f"{b.key}: {what} the {a.split} split ({a.key}) and the {b.split} split: keep it in one of them"


def _digest(path: Source) -> str:
    digest = hashlib.sha256()
    with open_binary(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
