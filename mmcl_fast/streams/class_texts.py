"""What classes are called: class texts from classes.json, names for numbers from classes.txt."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from mmcl_fast.errors import StreamError
from mmcl_fast.streams.name_forms import normalize_name
from mmcl_fast.streams.sample import ClassId
from mmcl_fast.streams.sources.text_file import read_json, read_lines
from mmcl_fast.streams.validate import check_characters, check_modality


def read_class_texts(root: Path) -> dict[ClassId, str]:
    """``root/classes.json``, ``{modality: {class: text}}``; nothing where there is none."""
    path = root / "classes.json"
    if not path.is_file():
        return {}
    try:
        content = read_json(path, "expected {modality: {class: text}}")
    except OSError as error:
        raise StreamError(f"{path}: {error.strerror}: make it readable or remove it") from None
    texts = {}
    for modality, classes in content.items() if isinstance(content, dict) else [("", content)]:
        if not isinstance(classes, dict):
            raise StreamError(f"{path}: expected {{modality: {{class: text}}}}")
        check_modality(modality, str(path))
        for label, text in classes.items():
            if not isinstance(text, str) or not text.strip():
                raise StreamError(f"{path}: {modality} {label!r}: a class text is a string with words in it")
            check_characters(label + text, f"{path}: {modality} {label!r}")
            identity = modality, normalize_name(label)
            if identity in texts:
                raise StreamError(f"{path}: {modality} {label!r} is there in two Unicode forms: keep one of them")
            texts[identity] = text
    return texts


def name_classes(modality: str, labels: Collection[str], folder: Path, texts: Mapping[ClassId, str]) -> dict[str, str]:
    """Label -> class name. Where all labels are whole numbers they stand for the lines of ``folder/classes.txt``.

    The lines are counted from 0 where a label is 0, and from 1 where none is 0 and one is the number of lines.
    Without that file numbers stay as they are if ``texts`` says what each means. Raises StreamError otherwise: a
    class is learned from what its name means.
    """
    if not all(label.isascii() and label.isdigit() for label in labels):
        return {label: label for label in labels}
    file, listed = folder / "classes.txt", ", ".join(sorted(labels, key=int)[:4])
    if not file.is_file():
        if all((modality, label) in texts for label in labels):
            return {label: label for label in labels}
        raise StreamError(f"{folder}: the classes are numbers ({listed}, ...): put their names into {file}, one a line")
    try:
        names = [normalize_name(line.strip()) for _, line in read_lines(file) if line.strip()]
    except OSError as error:
        raise StreamError(f"{file}: not readable ({error.strerror}): one class name a line") from None
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise StreamError(f"{file}: {twice!r} is on two lines: each class needs its own name")
    numbers = {int(label) for label in labels}
    first = 0 if 0 in numbers else 1
    if max(numbers) >= len(names) + first or (first == 1 and len(names) not in numbers):
        raise StreamError(
            f"{file}: {len(names)} names do not fit the labels {min(numbers)} to {max(numbers)}: one "
            f"a line, for labels from 0 to {len(names) - 1}, or from 1 to {len(names)} with {len(names)} "
            "in use"
        )
    for name in names:
        check_characters(name, f"{file}: {name!r}")
    return {label: names[int(label) - first] for label in labels}
