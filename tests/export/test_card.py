"""The model card shows names from data as text, whatever characters they hold."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mmcl_fast.export.card import MAX_CLASSES, render_card
from mmcl_fast.export.folder import TOLERANCE

HOSTILE = [
    "{{ 7 * 7 }}",
    "{% include 'card.md.j2' %}",
    "a | b",
    "<script>alert(1)</script>",
    "*bold* `code`",
    "two\nlines",
]
ESCAPED = [
    "{{ 7 \\* 7 }}",
    "{% include 'card.md.j2' %}",
    "a \\| b",
    "\\<script>alert(1)\\</script>",
    "\\*bold\\* \\`code\\`",
    "two lines",
]


def values(names: list[str], format: str = "onnx", encoder: str = "embedded") -> tuple[dict[str, Any], dict[str, Any]]:
    """Return model.json and preprocess.json of a learner of images and texts."""
    outputs = ["probabilities", "logits", "embedding", "contributions"]
    differences = dict.fromkeys([*outputs, "unknown"], 2.5e-7)
    record = {
        "format": format,
        "opset": 18,
        "versions": {"mmcl_fast": "0.1.0", "torch": "2.13.0"},
        "method": "comm",
        "encoder": encoder,
        "tasks": [
            {"name": names[0], "modality": "image", "classes": names},
            {"name": "text-0", "modality": "text", "classes": [f"c{i}" for i in range(MAX_CLASSES + 3)]},
        ],
        "contributions": ["image", "text"],
        "calibration": {"temperatures": {"image": 0.0312}, "samples": {"image": 40}, "common": 0.5},
        "unknown_missing": {"text": "it has one class"},
        "tolerance": TOLERANCE,
        "differences": {"image": differences, "text": dict.fromkeys(outputs, 1e-6)},
    }
    spec = {"resize": "squash", "size": 224}
    inputs = {
        "image": {
            "graph": "image.onnx",
            "inputs": {"pixels": ["batch", 1, 3, 224, 224]},
            "outputs": [*outputs, "unknown"],
            "spec": spec,
        },
        "text": {
            "graph": "text.onnx",
            "inputs": {"ids": ["batch", "tokens"], "mask": ["batch", "tokens"]},
            "outputs": outputs,
            "spec": {},
        },
    }
    return record, inputs


def test_hostile_names_are_text_and_break_no_table() -> None:
    summary = {"settings": {"agnostic": {"metrics": {"last": 91.25, "forgetting": None}}, "a | b": {"metrics": {}}}}
    card = render_card(*values(HOSTILE, encoder="a `b` | c"), 8, summary)
    (row,) = (line for line in card.splitlines() if line.startswith("| {{"))
    assert row == f"| {ESCAPED[0]} | image | {', '.join(ESCAPED)} |"
    assert "encoder `a 'b' | c`, one task" in card and "49" not in row
    for table in re.findall(r"(?:^\|.*\n)+", card, re.M):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(counts) == 1 and re.search(r"\|\n\|---\|", table), table
    assert "| agnostic | 91.2 | – |" in card and "| a \\| b | – | – |" in card
    assert not re.search(r"\n\n\n|\{%|\{#|Undefined", card.replace(row, ""))


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_the_card_of_an_unfinished_run(format: str) -> None:
    card = render_card(*values(["cat", "dog"], format), 8, None)
    assert card.startswith("# comm over image, text: 8 classes\n") and card.endswith("\n")
    assert "There are no scores" in card and "| setting |" not in card
    assert "c19 and 3 more, see classes.json" in card
    assert "| `text.onnx` | `ids` int64 `[batch, tokens]`, `mask` int64 `[batch, tokens]` |" in card
    assert "| `logits` | `[batch, 8]`; minus infinity" in card and "columns: image, text |" in card
    assert "| allowed | 0.001 | 0.001 | 0.0001 | 0.0001 | 0.01 |" in card and "| image | 2.5e-07 |" in card
    assert "| text | 1.0e-06 | 1.0e-06 | 1.0e-06 | 1.0e-06 | – |" in card
    program = card.partition("```python\n")[2].partition("```")[0]
    compile(program, "program", "exec")
    assert ("onnxruntime" in program) == (format == "onnx")


def test_the_card_says_how_sure_the_graphs_are() -> None:
    record, inputs = values(["cat", "dog"])
    card = render_card(record, inputs, 8, None)
    assert "fitted on 40 validation samples. It is part of the graph: image 0.0312, text 0.5.\n" in card
    assert "not calibrated" not in card and "Flag an input where `unknown` is at least 0.95." in card
    assert "in float32, and `unknown` in float64." in card and "| `unknown` | `[batch]` float64" in card
    assert "The graph of text has no output `unknown`: it has one class.\n" in card
    record["calibration"] = {"temperatures": {}, "samples": {}, "common": 1.0}
    record["unknown_missing"]["image"] = "it has one class"
    inputs["image"]["outputs"].remove("unknown")
    card = render_card(record, inputs, 8, None)
    assert "Probabilities are not calibrated, because there were no validation samples.\n" in card
    assert "0.95" not in card and "float64" not in card and "The graph of image has no output `unknown`" in card
    assert not re.search(r"\n\n\n", card)
