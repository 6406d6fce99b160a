"""Known datasets as unpacked from their archives: official splits, official class names, readable class texts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmcl_fast.errors import ConfigError, StreamError, did_you_mean
from mmcl_fast.media.registry import MODALITIES
from mmcl_fast.streams.sample import ClassId, Sample
from mmcl_fast.streams.sources.known import audio, depth, image, text, video
from mmcl_fast.streams.sources.known.layout import DatasetFolder, Layout
from mmcl_fast.streams.validate import check_characters

LAYOUTS: dict[str, Layout] = {**image.LAYOUTS, **video.LAYOUTS, **audio.LAYOUTS, **depth.LAYOUTS, **text.LAYOUTS}


def read_known(datasets: Mapping[str, str | Path | Mapping[str, Any]]) -> dict[str, Any]:
    """Return the arguments of ``Stream`` for known datasets; see ``Stream.from_known``."""
    given = {name: dict(value) if isinstance(value, Mapping) else {"path": value} for name, value in datasets.items()}
    if not given:
        raise StreamError(f"no dataset given: use some of {', '.join(LAYOUTS)}")
    dataset_of: dict[str, str] = {}
    for name in given:
        modality = find_layout(name).modality
        if modality in dataset_of:
            raise StreamError(f"{dataset_of[modality]} and {name} are both {modality}: give one dataset per modality")
        dataset_of[modality] = name
    samples: list[Sample] = []
    texts: dict[ClassId, str] = {}
    roots: list[str] = []
    for modality in filter(dataset_of.get, MODALITIES):
        name = dataset_of[modality]
        folder = _folder(name, **given[name])
        of_dataset = list(_read_samples(folder))
        labels = dict.fromkeys(sample.label for sample in of_dataset)
        order = {label: place for place, label in enumerate(labels)}
        samples += sorted(of_dataset, key=lambda sample: order[sample.label])
        texts |= {(modality, label): folder.layout.text(label) for label in labels}
        roots.append(os.path.abspath(folder.root))
    return {"samples": samples, "root": Path(os.path.commonpath(roots)), "class_texts": texts, "official": True}


def find_layout(name: str) -> Layout:
    """Return the layout of a dataset. Raises StreamError, with the most similar name, for an unknown one."""
    if name not in LAYOUTS:
        raise StreamError(f"unknown dataset {name!r}{did_you_mean(name, LAYOUTS)}: use one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def datasets_from_config(
    tables: Mapping[str, Mapping[str, Any]], depth_kind: str | None
) -> dict[str, Mapping[str, Any]]:
    """Return the argument of ``read_known`` for a config's [stream.datasets].

    ``tables``: modality -> ``{name, path, split, classes}``. ``depth_kind``: the config's media.depth_kind.

    Raises:
        ConfigError: one line that names the key that is missing or does not fit.
    """
    out: dict[str, Mapping[str, Any]] = {}
    for modality, table in tables.items():
        key, name = f"stream.datasets.{modality}", table["name"]
        if name is None:
            if any(table[option] is not None for option in ("path", "classes")):
                raise ConfigError(f"{key}.name: missing; use one of {_datasets_of(modality)}")
            continue
        if name not in LAYOUTS or LAYOUTS[name].modality != modality:
            hint = did_you_mean(name, [known for known, layout in LAYOUTS.items() if layout.modality == modality])
            raise ConfigError(
                f"{key}.name: {name!r} is no known dataset of {modality}{hint}; use one of {_datasets_of(modality)}"
            )
        if table["path"] is None:
            raise ConfigError(f"{key}.path: missing; it is the folder of {name}, which holds {LAYOUTS[name].tree}")
        kind = LAYOUTS[name].depth_kind
        if modality == "depth" and (depth_kind or "depth") != kind:
            raise ConfigError(f'media.depth_kind: set it to "{kind}", which the depth maps of {name} hold')
        out[name] = {option: table[option] for option in ("path", "split", "classes")}
    if not out:
        raise ConfigError(
            'stream.datasets: missing; source = "known" needs a name and a path for some modality, such '
            'as image = { name = "imagenet_r", path = "data/imagenet-r" }'
        )
    return out


def _datasets_of(modality: str) -> str:
    return ", ".join(name for name, layout in LAYOUTS.items() if layout.modality == modality)


def _folder(name: str, path: str | Path, split: int = 1, classes: str | Path | None = None) -> DatasetFolder:
    layout = LAYOUTS[name]
    if not 1 <= split <= layout.splits:
        raise StreamError(f"{name}: split = {split}: it has {layout.splits}, counted from 1")
    if classes is not None and name != "imagenet_100":
        raise StreamError(
            f"{name}: classes = {str(classes)!r}: a list of classes is for imagenet_100 only, leave it out"
        )
    folder = DatasetFolder(name, layout, Path(path), split, None if classes is None else Path(classes))
    folder.entries(".")  # raises an error about the folder itself, not about a file in it
    return folder


def _read_samples(folder: DatasetFolder) -> Iterator[Sample]:
    modality, name, root = folder.layout.modality, folder.name, str(folder.root)
    checked: set[str] = set()
    for label, split, place, item in folder.layout.read(folder):
        if label not in checked:
            check_characters(label, f"{root}/{place}: its class")
            checked.add(label)
        text = item if isinstance(item, str) else None
        file = None if isinstance(item, str) else item or Path(f"{root}/{place}")
        yield Sample(modality, label, file, text, split, f"{name}/{place}")
