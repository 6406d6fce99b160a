"""Write the model card of an export: README.md, from the template card.md.j2."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcl_fast.learning import Learner
from mmcl_fast.report.markdown import escape_markdown
from mmcl_fast.templates import make_environment

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

MAX_CLASSES = 20  # classes of a task that the card names
METRICS = ("last", "avg", "pooled", "forgetting", "bwt")
# Markdown; shown as it is.
PREPARATION = {
    "text": "The first `max_chars` characters of the text, without white space around it. In lower case if `lowercase` "
    "is true. Then through `tokenizer.json` (package tokenizers), which holds padding and truncation: `ids` and `mask` "
    "are its ids and attention mask.",
    "image": "Turned upright, RGB, resized with antialiasing as `spec` says, scaled to 0..1, minus `mean`, divided by "
    "`std`.",
    "video": "`frames` frames spread evenly over the duration, each prepared as an image.",
    "audio": "Mono at `sample_rate`, a window of `seconds`, its log-mel spectrogram (HTK filters; the loudest value is "
    "1, `db_range` below it is 0), resized to `size`, three equal channels, minus `mean`, divided by `std`.",
    "depth": "Inverse depth in 0..1 between the ends of `depth_range` (None: the 1 % and 99 % quantiles of the map), "
    "near is 1, invalid is 0, resized to `size`, three equal channels, minus `mean`, divided by `std`.",
}
UNKNOWN_PREPARATION = "As the reader of this modality prepares it."
OUTPUTS = {
    "probabilities": "`[batch, {classes}]`, the softmax of the logits divided by the modality's temperature; columns "
    "as in `classes.json`",
    "logits": "`[batch, {classes}]`; minus infinity for a class that this input cannot have",
    "embedding": "`[batch, D]`, the re-aligned embedding, unit rows",
    "contributions": "`[batch, {modalities}]`, the weight of each modality's prompts and gates; columns: {columns}",
    "unknown": "`[batch]` float64, from 0 to 1: the share of the modality's held-out training samples that resemble "
    "the classes more",
}


def public_name(learner: Learner) -> str:
    """Return the encoder's hub name. Of a folder only the last part: a card names no path of this machine."""
    name = learner.encoder.name
    return Path(name).name if Path(name).is_dir() else name


def render_card(
    record: Mapping[str, Any], inputs: Mapping[str, Any], num_classes: int, summary: Mapping[str, Any] | None
) -> str:
    """Return the card as Markdown. Names from data are shown as text, whatever characters they hold.

    Args:
        record: the values of model.json.
        inputs: the values of preprocess.json.
        num_classes: number of classes.
        summary: the values of the run's summary.json; None: the card has no scores.
    """
    from markupsafe import Markup

    settings = None if summary is None else {name: s["metrics"] for name, s in summary["settings"].items()}
    columns = record["contributions"] or []
    sizes = {"classes": num_classes, "modalities": len(columns), "columns": escape_markdown(", ".join(columns))}
    return _template().render(
        record=record,
        inputs=inputs,
        num_classes=num_classes,
        settings=settings,
        metric_names=[m for m in METRICS if any(m in metrics for metrics in (settings or {}).values())],
        outputs=list(dict.fromkeys(name for values in inputs.values() for name in values["outputs"])),
        meanings={name: Markup(text.format(**sizes)) for name, text in OUTPUTS.items()},
        preparation={modality: Markup(PREPARATION.get(modality, UNKNOWN_PREPARATION)) for modality in inputs},
        program=Markup(_example_program(record, inputs)),
        versions=[f"{name} {version}" for name, version in record["versions"].items()],
    )


@cache
def _template() -> Template:
    environment = make_environment(Path(__file__).parent, finalize=_escape)
    environment.filters |= {
        "code": _code_span,
        "first_classes": _first_classes,
        "join": _join,
        "number_in": lambda name, values: "–" if values.get(name) is None else f"{values[name]:.1f}",
        "row": _row,
        "scientific_in": lambda name, values: f"{values[name]:.1e}" if name in values else "–",
        "shapes": _shapes,
        "shortest": lambda value: f"{value:.3g}",
        "shortest_in": lambda name, values: f"{values[name]:g}",
        "table_head": _table_head,
    }
    return environment.get_template("card.md.j2")


def _escape(value: Any) -> Markup:
    """Return a value as Markdown that shows it as it is. ``Markup`` is Markdown already."""
    from markupsafe import Markup

    return value if isinstance(value, Markup) else Markup(escape_markdown(str(value)))


def _join(values: Iterable[Any], separator: str) -> str:
    """Join values as plain text. Jinja2's filter of this name would escape them as HTML."""
    return separator.join(map(str, values))


def _row(cells: Iterable[Any]) -> Markup:
    from markupsafe import Markup

    # A bar ends a cell even inside a code span.
    return Markup("| " + " | ".join(str(_escape(cell)).replace("|", "\\|") for cell in cells) + " |")


def _table_head(cells: Sequence[Any]) -> Markup:
    from markupsafe import Markup

    return Markup(f"{_row(cells)}\n|{'---|' * len(cells)}")


def _code_span(value: Any) -> Markup:
    """Return a value as a code span. A code span cannot hold a backtick: it becomes a quote."""
    from markupsafe import Markup

    return Markup("`" + " ".join(str(value).replace("`", "'").split()) + "`")


def _first_classes(names: Sequence[str]) -> str:
    more = len(names) - MAX_CLASSES
    return ", ".join(names[:MAX_CLASSES]) + (f" and {more} more, see classes.json" if more > 0 else "")


def _shapes(inputs: Mapping[str, Sequence[int | str]]) -> Markup:
    """Return the name, type and shape of each input, such as "pixels float32 [batch, 1, 3, 224, 224]"."""
    from markupsafe import Markup

    kind = "float32" if "pixels" in inputs else "int64"
    found = []
    for name, shape in inputs.items():
        sizes = _code_span("[" + _join(shape, ", ") + "]")
        found.append(f"{_code_span(name)} {kind} {sizes}")
    return Markup(", ".join(found))


def _example_program(record: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """Return a Python program that predicts an image if the export has images, else a text, else zeros."""
    modality = next((m for m in ("image", "text") if m in inputs), next(iter(inputs)))
    chosen, onnx = inputs[modality], record["format"] == "onnx"
    lines = ["import json", "import numpy as np", "import onnxruntime" if onnx else "import torch"]
    if modality == "image":
        lines += [
            "from PIL import Image, ImageOps",
            "",
            'spec = json.load(open("preprocess.json"))["image"]["spec"]',
            'size, how = (spec["size"],) * 2, Image.Resampling[spec["interpolation"].upper()]',
            'picture = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")',
            "picture = picture.resize(size, how)"
            if chosen["spec"]["resize"] == "squash"
            else "picture = ImageOps.fit(picture, size, how)",
            'x = (np.asarray(picture) / 255 - spec["mean"]) / spec["std"]',
            'inputs = {"pixels": x.transpose(2, 0, 1)[None, None].astype(np.float32)}',
        ]
    elif modality == "text":
        lower = ".lower()" if chosen["lowercase"] else ""
        lines += [
            "from tokenizers import Tokenizer",
            "",
            f'found = Tokenizer.from_file("tokenizer.json").encode("a text"{lower})',
            'inputs = {"ids": np.array([found.ids]), "mask": np.array([found.attention_mask])}',
        ]
    else:
        shape = _join([1, *chosen["inputs"]["pixels"][1:]], ", ")
        lines += ["", f'inputs = {{"pixels": np.zeros(({shape}), np.float32)}}  # prepare a file as described above']
    graph = json.dumps(chosen["graph"])
    if onnx:
        lines += [
            f"session = onnxruntime.InferenceSession({graph})",
            'probabilities, = session.run(["probabilities"], inputs)',
        ]
    else:
        lines += [
            f"module = torch.export.load({graph}).module()",
            "out = module(*(torch.from_numpy(x) for x in inputs.values()))",
            'probabilities = out["probabilities"].detach().numpy()',
        ]
    lines += [
        'classes = json.load(open("classes.json"))',
        'print(classes[probabilities[0].argmax()]["class"], probabilities[0].max())',
    ]
    return "\n".join(lines)
