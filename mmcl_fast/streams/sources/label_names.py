"""Labels of tables and tars: what stands for no value, and numbers, which need names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mmcl_fast.errors import StreamError
from mmcl_fast.streams.class_texts import name_classes
from mmcl_fast.streams.name_forms import normalize_name
from mmcl_fast.streams.sample import ClassId, Sample

# What pandas.read_csv takes for a missing value, to the letter: "none" and "NONE" may be classes.
MISSING_VALUES = frozenset(
    (
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A"),
        *("NA", "NULL", "NaN", "NaT", "None", "n/a", "nan", "null", "\\N"),
    )
)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*|,0{1,2})?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_WHOLE = 1e15  # floats beyond it are no exact whole numbers


def name_labels(samples: Sequence[Sample], folder: Path, texts: Mapping[ClassId, str]) -> list[Sample]:
    """The samples with their classes' names as labels, in Unicode's composed form.

    Where all labels of a modality are numbers they stand for the lines of ``folder/classes.txt``; 1.0, 01 and 1e0 are
    1. Raises StreamError for a label that stands for no value, and for numbers and truth values without names. A text
    in ``texts`` makes a class of any label.
    """
    labels: dict[str, set[str]] = {}
    for sample in samples:
        label = normalize_name(sample.label)
        if label in MISSING_VALUES and (sample.modality, label) not in texts:
            raise StreamError(
                f"{sample.key}: the label {label!r} stands for no value: fill it or remove the sample; "
                "if it is a class, give its text in classes.json"
            )
        labels.setdefault(sample.modality, set()).add(label)
    names = {modality: _names(modality, own, folder, texts) for modality, own in labels.items()}
    return [replace(sample, label=names[sample.modality][normalize_name(sample.label)]) for sample in samples]


def _names(modality: str, labels: Collection[str], folder: Path, texts: Mapping[ClassId, str]) -> Mapping[str, str]:
    same = {label: label for label in labels}
    if all((modality, label) in texts for label in labels) and not (folder / "classes.txt").is_file():
        return same
    if {label.lower() for label in labels} <= {"true", "false"}:
        raise StreamError(
            f"{folder}: the classes are truth values ({', '.join(sorted(labels))}): write their names into the table, "
            f"or give both a text in {folder / 'classes.json'}"
        )
    if not all(_NUMBER.fullmatch(label) for label in labels):
        return same
    numbers = {label: float(label.replace(",", ".")) for label in labels}
    odd = next(
        (label for label, value in sorted(numbers.items()) if not (0 <= value < _WHOLE and value % 1 == 0)), None
    )
    if odd is not None:
        raise StreamError(
            f"{folder}: the classes are numbers, {odd} among them: write the classes' names instead, or give each a "
            f"text in {folder / 'classes.json'}"
        )
    whole = {label: str(int(value)) for label, value in numbers.items()}
    named = name_classes(modality, set(whole.values()), folder, texts)
    return {label: named[number] for label, number in whole.items()}
