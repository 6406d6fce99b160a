"""Class texts from a file classes.json beside the data."""

from __future__ import annotations

from pathlib import Path

from mmcl_fast.errors import StreamError
from mmcl_fast.streams.name_forms import normalize_name
from mmcl_fast.streams.sample import ClassId
from mmcl_fast.streams.sources.text_file import read_json
from mmcl_fast.streams.validate import check_characters, check_modality


def read_class_texts(root: Path) -> dict[ClassId, str]:
    """Read ``root/classes.json``, which holds ``{modality: {class: text}}``. Without that file the result is empty.

    Raises:
        StreamError: the file can't be read, or holds something else.
    """
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
                raise StreamError(f"{path}: {modality} {label!r}: give its text as a string with words in it")
            check_characters(label + text, f"{path}: {modality} {label!r}")
            class_id = modality, normalize_name(label)
            if class_id in texts:
                raise StreamError(f"{path}: {modality} {label!r} is there in two Unicode forms: keep one of them")
            texts[class_id] = text
    return texts
