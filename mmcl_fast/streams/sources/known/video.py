"""UCF101, HMDB51 and Something-Something V2."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TypeVar

from mmcl_fast.streams.sources.known.layout import DatasetFolder, KnownSample, Layout

SPLIT_OF_TAG = {"1": "train", "2": "test"}  # in HMDB51's lists; tag 0 is in neither split
Content = TypeVar("Content", list, dict)


def split_camel_case(label: str) -> str:
    """Return the words of a label: ``apply eye makeup`` for ``ApplyEyeMakeup``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", label).lower()


def _read_ucf101(folder: DatasetFolder) -> Iterator[KnownSample]:
    lists = folder.first("ucfTrainTestlist", "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist")
    videos = folder.first("UCF-101")
    classes = [line.split()[-1] for line in folder.lines(f"{lists}/classInd.txt")]
    for split in ("train", "test"):
        place = f"{lists}/{split}list{folder.split:02d}.txt"
        for line in folder.lines(place):
            name = line.split()[0]
            label = name.split("/")[0]
            if label not in classes:
                raise folder.format_error(place, f"the class {label!r} is not in classInd.txt")
            yield KnownSample(label, split, folder.file(videos, name))


def _read_hmdb51(folder: DatasetFolder) -> Iterator[KnownSample]:
    lists = folder.first("testTrainMulti_7030_splits", "test_train_splits")
    videos = folder.first("hmdb51_org")
    ending = f"_test_split{folder.split}.txt"
    files = [name for name in folder.files(lists) if name.endswith(ending)]
    if not files:
        raise folder.missing_error(f"{lists}/brush_hair{ending}")
    for file in files:
        label = file[: -len(ending)]
        for line in folder.lines(f"{lists}/{file}"):
            name, _, tag = line.rpartition(" ")
            if tag in SPLIT_OF_TAG:
                yield KnownSample(label, SPLIT_OF_TAG[tag], folder.file(videos, f"{label}/{name.strip()}"))
            elif tag != "0":
                raise folder.format_error(f"{lists}/{file}", f"the line {line!r}")


def _read_something(folder: DatasetFolder) -> Iterator[KnownSample]:
    """Read the dataset with its validation split for testing, as is usual: test labels were published years later."""
    videos = folder.first("20bn-something-something-v2", "videos")
    prefix = "something-something-v2-" if folder.has("something-something-v2-train.json") else "labels/"
    classes = _load_json(folder, f"{prefix}labels.json", dict)
    for split, name in (("train", "train"), ("test", "validation")):
        place = f"{prefix}{name}.json"
        for record in _load_json(folder, place, list):
            if not isinstance(record, dict) or not {"id", "template"} <= set(record):
                raise folder.format_error(place, f"no id and template in {str(record)[:80]}")
            label = str(record["template"]).replace("[", "").replace("]", "")
            if label not in classes:
                raise folder.format_error(place, f"the template {label!r} is not in labels.json")
            yield KnownSample(label, split, folder.file(videos, f"{record['id']}.webm"))


def _load_json(folder: DatasetFolder, place: str, kind: type[Content]) -> Content:
    try:
        content = json.loads(folder.text(place))
    except (ValueError, RecursionError) as error:
        raise folder.format_error(place, f"not JSON ({error})") from None
    if not isinstance(content, kind):
        raise folder.format_error(place, f"not a {kind.__name__}")
    return content


LAYOUTS = {
    "ucf101": Layout(
        "video",
        "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi and so on, "
        "ucfTrainTestlist/classInd.txt, ucfTrainTestlist/trainlist01.txt, ucfTrainTestlist/testlist01.txt "
        "(to 03)",
        _read_ucf101,
        splits=3,
        text=split_camel_case,
    ),
    "hmdb51": Layout(
        "video",
        "hmdb51_org/brush_hair/*.avi and so on, testTrainMulti_7030_splits/brush_hair_test_split1.txt and so on (to 3)",
        _read_hmdb51,
        splits=3,
    ),
    "something_something_v2": Layout(
        "video",
        "20bn-something-something-v2/1.webm and so on, labels/labels.json, "
        "labels/train.json, labels/validation.json (or something-something-v2-labels.json "
        "and so on)",
        _read_something,
    ),
}
