from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import scale
from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods.comm.memory import FeatureMemory
from mmcl_fast.methods.comm.method import CommOptions
from mmcl_fast.methods.comm.realignment import trains
from mmcl_fast.methods.comm.token_means import TokenMeans

DEFAULTS = {name: float(value) for name, (value, _) in {**scale.WORK, **scale.RATES}.items()}


def hours(**changes: float) -> dict[str, float]:
    return {row[0]: float(row[2]) for row in scale.estimate(SimpleNamespace(**{**DEFAULTS, **changes}))[0]}


def test_the_page_holds_what_the_command_prints():
    page = Path(__file__).resolve().parents[2] / "docs" / "scale.md"
    assert scale.text(DEFAULTS) in page.read_text()


def test_what_is_shared_out_halves_with_twice_the_gpus():
    one, two = hours(), hours(gpus=128)
    for phase in ("decode", "prompts: products", "mean tokens of old classes"):
        assert two[phase] == pytest.approx(one[phase] / 2, abs=0.01)
    assert two["statistics"] == one["statistics"] and hours(classes=5e5)["statistics"] == pytest.approx(13.89, abs=0.01)


def test_bytes_of_a_class_are_those_of_the_memory():
    options, wide = CommOptions(), int(DEFAULTS["dim"] + DEFAULTS["query"])
    memory = FeatureMemory(options.class_rank, options.modality_rank, options.shrink)
    memory.add("image", [0], torch.randn(20, wide), torch.zeros(20))
    size = sum(t.numel() * t.element_size() for key, t in memory.state()[0].items() if key.startswith("class/"))
    rows = {row[0]: row[1] for row in scale.estimate(SimpleNamespace(**DEFAULTS))[1]}
    assert rows["statistics of a class"] == f"{size / 1e3:.0f} kB"
    means, shape = TokenMeans(), (int(DEFAULTS["tokens"]), int(DEFAULTS["width"]))
    means.add("image", [0], Tokens(torch.randn(2, *shape), torch.randn(2, 3)), torch.zeros(2))
    size = sum(t.numel() * t.element_size() for t in means.state()[0].values())
    assert rows["mean tokens of a class"] == f"{size / 1e3:.0f} kB"


def test_re_alignment_is_trained_up_to_the_number_of_classes_that_the_page_says():
    options, wide = CommOptions(), int(DEFAULTS["dim"] + DEFAULTS["query"])
    most = scale.trainable_classes(wide, options)
    assert trains(most, wide, options.steps, options.sampled_features)
    assert not trains(most + 1, wide, options.steps, options.sampled_features)


def test_rates_are_taken_from_a_file(tmp_path, monkeypatch, capsys):
    rates = tmp_path / "rates.json"
    rates.write_text(json.dumps({"decode": 4000}))
    monkeypatch.setattr(sys, "argv", ["scale", "--rates", str(rates), "--set", "gpus=32"])
    scale.main()
    printed = capsys.readouterr().out
    assert "| decode | 4000 | given |" in printed and "| gpus | 32 | given |" in printed
    monkeypatch.setattr(sys, "argv", ["scale", "--set", "gpu=32"])
    with pytest.raises(SystemExit):
        scale.main()
    assert "gpu: no such name" in capsys.readouterr().err
