"""ImageNet-R, ImageNet-100 and CIFAR-100."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import numpy as np

from mmcl_fast.errors import StreamError
from mmcl_fast.media.source import Slice
from mmcl_fast.streams.sources.known.layout import DatasetFolder, KnownSample, Layout

WNID = re.compile(r"\bn\d{8}\b")
# A line "wnid name, synonym", or "wnid": "name" of JSON.
WNID_AND_NAME = re.compile(r'\b(n\d{8})\b[ \t",:]*([^"\n]*\w)')
NAME_FILES = (
    "README.txt",
    "Labels.json",
    "classnames.txt",
    "LOC_synset_mapping.txt",
    "synset_words.txt",
    "imagenet_class_index.json",
)
CLASS_LISTS = ("Labels.json", "imagenet100.txt", "classes.txt", "wnids.txt")
TEST_SHARE = 0.2  # of ImageNet-R's files, where there are no split folders
RECORD_BYTES = 2 + 3 * 32 * 32  # a coarse label, a fine label, and the three planes of a CIFAR-100 image


def _read_imagenet_r(folder: DatasetFolder) -> Iterator[KnownSample]:
    """Read the folders train and test, or else hold out a fifth of each class.

    The dataset itself has no splits. L2P and DualPrompt hold out a random fifth. Here it is the fifth of each class
    whose file names have the smallest sha256.
    """
    if folder.has("train"):
        yield from _read_wnid_folders(folder, ["train"], [folder.first("test", "val")], folder.folders("train"))
        return
    wnids = [name for name in folder.folders(".") if WNID.fullmatch(name)]
    if not wnids:
        raise folder.missing_error("n01443537")
    names = _read_names(folder, wnids)
    for wnid in wnids:
        files = folder.files(wnid)
        ranked = sorted(files, key=lambda name: hashlib.sha256(f"{wnid}/{name}".encode(errors="replace")).digest())
        test = set(ranked[: max(1, round(TEST_SHARE * len(files)))])
        for name in files:
            yield KnownSample(names[wnid], "test" if name in test else "train", f"{wnid}/{name}")


def _read_imagenet_100(folder: DatasetFolder) -> Iterator[KnownSample]:
    """Read the classes of a list. ImageNet's validation folder is the test split: the test labels are not public."""
    top = folder.folders(".")
    train, test = ([name for name in top if name.split(".")[0] == split] for split in ("train", "val"))
    if not (train and test):
        raise folder.missing_error("val" if train else "train")
    source = folder.classes or next((folder.root / name for name in CLASS_LISTS if folder.has(name)), None)
    if source is None:
        wnids = sorted({wnid for place in train for wnid in folder.folders(place)})
        if len(wnids) != 100:
            raise StreamError(
                f"{folder.root / train[0]}: {len(wnids)} class folders: which are the 100? List them, one "
                f"wnid per line, in {folder.root / 'imagenet100.txt'}, or give a file as classes"
            )
    else:
        try:
            wnids = list(dict.fromkeys(WNID.findall(source.read_text(encoding="utf-8"))))
        except (OSError, UnicodeDecodeError) as error:
            raise StreamError(f"{source}: not readable ({error}): a list of wnids, one per line") from None
        if not wnids:
            raise StreamError(f"{source}: no wnid such as n01440764 in it: list the classes, one per line")
    yield from _read_wnid_folders(folder, train, test, wnids)


def _read_wnid_folders(
    folder: DatasetFolder, train: list[str], test: list[str], wnids: list[str]
) -> Iterator[KnownSample]:
    names = _read_names(folder, wnids)
    for wnid in wnids:
        for split, places in (("train", train), ("test", test)):
            held = [place for place in places if wnid in folder.entries(place)]
            if not held:
                raise folder.missing_error(f"{places[0]}/{wnid}")
            for place in held:
                for name in folder.files(f"{place}/{wnid}"):
                    yield KnownSample(names[wnid], split, f"{place}/{wnid}/{name}")


def _read_names(folder: DatasetFolder, wnids: list[str]) -> dict[str, str]:
    """Return wnid -> its first name, from the list of classes, or from a file beside the folders or above them."""
    known: dict[str, str] = {}
    files = [place / name for place in (folder.root, folder.root.parent) for name in NAME_FILES + CLASS_LISTS]
    for file in filter(None, (folder.classes, *files)):
        if file.is_file():
            for wnid, name in WNID_AND_NAME.findall(file.read_text(encoding="utf-8", errors="replace")):
                known.setdefault(wnid, name.split(",")[0].strip().replace("_", " "))
    for wnid in wnids:
        if wnid not in known:
            raise StreamError(
                f"{folder.root}: no name for {wnid}: put a file with lines such as 'n01440764 tench' "
                f"there ({', '.join(NAME_FILES[2:5])})"
            )
    names = {wnid: known[wnid] for wnid in wnids}
    # Some names mean two classes: a crane is a bird and a machine.
    twice = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {wnid: f"{name} ({wnid})" if name in twice else name for wnid, name in names.items()}


def _read_cifar_100(folder: DatasetFolder) -> Iterator[KnownSample]:
    if (folder.root / "train").is_dir():
        for label in folder.folders("train"):
            for split in ("train", "test"):
                for name in folder.files(f"{split}/{label}"):
                    yield KnownSample(label, split, f"{split}/{label}/{name}")
        return
    if folder.has("meta") or folder.has("cifar-100-python"):
        raise StreamError(
            f"{folder.root}: CIFAR-100's Python version is pickled, and unpickling runs what a file "
            "says: take the binary version, cifar-100-binary.tar.gz, with train.bin and test.bin"
        )
    classes = folder.lines("fine_label_names.txt")
    for split in ("train", "test"):
        place = folder.first(f"{split}.bin")
        data = np.fromfile(folder.root / place, np.uint8)
        if not len(data) or len(data) % RECORD_BYTES:
            raise folder.format_error(place, f"{len(data)} bytes, no multiple of {RECORD_BYTES}")
        labels = data[1::RECORD_BYTES].tolist()
        if max(labels) >= len(classes):
            raise folder.format_error(
                place, f"a label {max(labels)}, with {len(classes)} names in fine_label_names.txt"
            )
        for row, label in enumerate(labels):
            name = f"{row:05d}"
            item = Slice(str(folder.root / place), row * RECORD_BYTES + 2, RECORD_BYTES - 2, name, planes=(32, 32))
            yield KnownSample(classes[label], split, f"{place}/{name}", item)


LAYOUTS = {
    "imagenet_r": Layout(
        "image",
        "n01443537/*.jpg and so on (or train/<wnid>/*, test/<wnid>/*) and README.txt with the classes' names",
        _read_imagenet_r,
    ),
    "imagenet_100": Layout(
        "image",
        "train/<wnid>/*.JPEG, val/<wnid>/*.JPEG (or train.X1/<wnid>/*, ..., "
        "val.X/<wnid>/*), imagenet100.txt with 100 wnids and LOC_synset_mapping.txt with names (or "
        "Labels.json with both)",
        _read_imagenet_100,
    ),
    "cifar_100": Layout(
        "image",
        "train.bin, test.bin, fine_label_names.txt (cifar-100-binary.tar.gz), or "
        "train/<class>/*.png, test/<class>/*.png",
        _read_cifar_100,
    ),
}
