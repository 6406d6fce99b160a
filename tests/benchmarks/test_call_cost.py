"""benchmarks/call_cost.py compares two checkouts: here one checkout with itself, briefly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import call_cost

ROOT = Path(__file__).parents[2]


def test_a_checkout_costs_about_as_much_as_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(call_cost, "BLOCK_SECONDS", 0.001)
    arguments = [str(ROOT), "--pairs", "2", "--rounds", "5", "--select", "realign, reference", "--out", "same"]
    assert call_cost.main([*arguments, "--folder", str(tmp_path)]) == 0
    text = (tmp_path / "same.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip() and "processor" in text
    (line,) = (line for line in text.splitlines() if line.startswith("| realign"))
    assert line.startswith("| realign | reference | ")
    (result,) = json.loads((tmp_path / "same.json").read_text())["results"]
    assert result["before"] > 0 and result["after"] > 0 and len(result["ratios"]) == 2
    assert all(0.2 < ratio < 5 for ratio in result["ratios"])


def test_ratios_are_of_turns_side_by_side_and_the_order_alternates(monkeypatch):
    """The machine becomes ten times slower halfway; the ratio does not notice."""
    order, speed = [], [1.0]

    class Worker:
        calls = ("alignment_loss",)

        def __init__(self, checkout):
            self.cost = 3.0 if checkout == Path("after") else 2.0

        def microseconds(self, case, count):
            order.append(self.cost)
            speed[0] = 10.0 if len(order) > 25 else 1.0
            return self.cost * speed[0]

        def close(self):
            pass

    monkeypatch.setattr(call_cost, "Worker", Worker)
    (times,) = call_cost.measure(Path("before"), Path("after"), "auto", pairs=1, rounds=20)
    assert times.ratios == [1.5]
    turns = list(zip(order[3::2], order[4::2], strict=True))  # after the warm-up and the count
    assert {turns[0], turns[1]} == {(2.0, 3.0), (3.0, 2.0)} and turns[0] == turns[2]


def test_another_mmcl_fast_than_the_checkouts_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"Python imports mmcl_fast from .*; pass the root folder of a checkout"):
        call_cost.Worker(tmp_path)
    with pytest.raises(SystemExit):
        call_cost.main([str(tmp_path)])
