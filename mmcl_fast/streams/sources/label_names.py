"""Class names for the labels of tables and tars: labels that mean "no value", and numbers, which need names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mmcl_fast.errors import StreamError
from mmcl_fast.streams.name_forms import normalize_name
from mmcl_fast.streams.sample import ClassId, Sample
from mmcl_fast.streams.sources.text_file import read_lines
from mmcl_fast.streams.validate import check_characters

# The strings that pandas.read_csv reads as a missing value. Other spellings, such as "none" or "NONE", may be classes.
MISSING_VALUES = frozenset(
    (
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A"),
        *("NA", "NULL", "NaN", "NaT", "None", "n/a", "nan", "null", "\\N"),
    )
)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*|,0{1,2})?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_LARGEST_WHOLE = 1e15  # larger floats are no exact whole numbers


def name_labels(samples: Sequence[Sample], folder: Path, texts: Mapping[ClassId, str]) -> list[Sample]:
    """Return the samples with class names as labels, in Unicode's composed form.

    Where all labels of a modality are numbers they stand for the lines of ``folder/classes.txt``. 1.0, 01 and 1e0 are
    the number 1. A label that has a class text in ``texts`` is always a class.

    Raises:
        StreamError: a label means "no value", or the labels are numbers or truth values without names.
    """
    labels: dict[str, set[str]] = {}
    for sample in samples:
        label = normalize_name(sample.label)
        if label in MISSING_VALUES and (sample.modality, label) not in texts:
            raise StreamError(
                f"{sample.key}: the label {label!r} means a missing value: fill it or remove the sample; "
                "if it is a class, give its text in classes.json"
            )
        labels.setdefault(sample.modality, set()).add(label)
    names = {modality: _names_of_labels(modality, some, folder, texts) for modality, some in labels.items()}
    return [replace(sample, label=names[sample.modality][normalize_name(sample.label)]) for sample in samples]


def _names_of_labels(
    modality: str, labels: Collection[str], folder: Path, texts: Mapping[ClassId, str]
) -> Mapping[str, str]:
    """Return label -> class name for all labels of a modality."""
    unchanged = {label: label for label in labels}
    if all((modality, label) in texts for label in labels) and not (folder / "classes.txt").is_file():
        return unchanged
    if {label.lower() for label in labels} <= {"true", "false"}:
        raise StreamError(
            f"{folder}: the classes are truth values ({', '.join(sorted(labels))}): write their names into the table, "
            f"or give both a text in {folder / 'classes.json'}"
        )
    if not all(_NUMBER.fullmatch(label) for label in labels):
        return unchanged
    numbers = {label: float(label.replace(",", ".")) for label in labels}
    not_whole = next(
        (label for label, value in sorted(numbers.items()) if not (0 <= value < _LARGEST_WHOLE and value % 1 == 0)),
        None,
    )
    if not_whole is not None:
        raise StreamError(
            f"{folder}: the classes are numbers, {not_whole} among them: write the classes' names instead, or give "
            f"each a text in {folder / 'classes.json'}"
        )
    whole = {label: str(int(value)) for label, value in numbers.items()}
    named = _names_of_numbers(modality, set(whole.values()), folder, texts)
    return {label: named[number] for label, number in whole.items()}


def _names_of_numbers(
    modality: str, numbers: Collection[str], folder: Path, texts: Mapping[ClassId, str]
) -> dict[str, str]:
    """Return whole number -> class name, from the lines of ``folder/classes.txt``.

    The lines are counted from 0 if a label is 0. They are counted from 1 if no label is 0 and one is the number of
    lines. Without the file, numbers stay as they are if ``texts`` says what each means.

    Raises:
        StreamError: the numbers have no names. A model learns a class from what its name means.
    """
    file, examples = folder / "classes.txt", ", ".join(sorted(numbers, key=int)[:4])
    if not file.is_file():
        if all((modality, number) in texts for number in numbers):
            return {number: number for number in numbers}
        raise StreamError(
            f"{folder}: the classes are numbers ({examples}, ...): put their names into {file}, one per line"
        )
    try:
        names = [normalize_name(line.strip()) for _, line in read_lines(file) if line.strip()]
    except OSError as error:
        raise StreamError(f"{file}: not readable ({error.strerror}): one class name a line") from None
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise StreamError(f"{file}: {twice!r} is on two lines: each class needs its own name")
    values = {int(number) for number in numbers}
    first = 0 if 0 in values else 1
    if max(values) >= len(names) + first or (first == 1 and len(names) not in values):
        raise StreamError(
            f"{file}: {len(names)} names do not fit the labels {min(values)} to {max(values)}: one "
            f"a line, for labels from 0 to {len(names) - 1}, or from 1 to {len(names)} with {len(names)} "
            "in use"
        )
    for name in names:
        check_characters(name, f"{file}: {name!r}")
    return {number: names[int(number) - first] for number in numbers}
