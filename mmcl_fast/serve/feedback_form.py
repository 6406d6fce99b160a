"""Read a form that holds one sample and its right label."""

from __future__ import annotations

from dataclasses import dataclass

from python_multipart.multipart import parse_options_header

from mmcl_fast.errors import suggest
from mmcl_fast.media import MODALITIES
from mmcl_fast.media.source import name_of
from mmcl_fast.serve.body import NAMELESS, TEXT_FIELD, Item, RequestRefused, parse_form
from mmcl_fast.serve.limits import Limits

LABEL_FIELD, MODALITY_FIELD = "label", "modality"
ADVICE = f"send one file with a file name, or a text in the field {TEXT_FIELD!r}, and the field {LABEL_FIELD!r}"


@dataclass(frozen=True)
class LabelledItem:
    """A sample and its right label, as a client sent them."""

    item: Item
    label: str


def find_labelled_item(body: bytes, content_type: str, limits: Limits) -> LabelledItem:
    """Return the sample and the label of a form.

    Args:
        body: the bytes.
        content_type: the request's header of this name.
        limits: of the number of parts.

    Raises:
        RequestRefused: the body is no such form.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise RequestRefused(415, f"content-type: feedback is a form, multipart/form-data: {ADVICE}")
    fields: dict[str, str] = {}
    samples: list[tuple[str, bytes, bool]] = []  # name, content, whether it is a text
    for field, filename, data in parse_form(body, options.get(b"boundary", b""), limits):
        if filename:
            samples.append((name_of(filename), data, False))
        elif filename == "":  # a browser sends this if no file was chosen
            samples += [(NAMELESS, data, False)] if data else []
        elif field == TEXT_FIELD:
            samples.append((TEXT_FIELD, data, True))
        elif field not in (LABEL_FIELD, MODALITY_FIELD):
            raise RequestRefused(400, f"field {name_of(field)[:99]!r}: unknown; {ADVICE}")
        elif field in fields:
            raise RequestRefused(400, f"field {field!r}: given twice; {ADVICE}")
        else:
            fields[field] = _decode_field(field, data)
    if len(samples) != 1:
        raise RequestRefused(400, f"{len(samples)} samples in the form: {ADVICE}")
    if LABEL_FIELD not in fields:
        raise RequestRefused(400, f"no label in the form: {ADVICE}")
    ((name, data, is_text),) = samples
    modality = fields.get(MODALITY_FIELD) or None
    if modality is not None and modality not in MODALITIES:
        raise RequestRefused(400, f"modality {modality[:99]!a}: {suggest(modality[:99], MODALITIES)}")
    if is_text and modality not in (None, "text"):
        raise RequestRefused(400, f"modality {modality!r}: the field {TEXT_FIELD!r} holds a text; send a file")
    return LabelledItem(Item(name, data, "text" if is_text else modality), fields[LABEL_FIELD])


def _decode_field(field: str, data: bytes) -> str:
    try:
        return data.decode().strip()
    except UnicodeDecodeError:
        raise RequestRefused(400, f"field {field!r}: not UTF-8: send it in UTF-8") from None
