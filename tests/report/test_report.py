"""The page holds the run's numbers and needs nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mmcl_fast import report
from mmcl_fast.errors import RunError
from mmcl_fast.report import figures, page
from tests.conftest import TASKS, summary_of


def blocks(text: str) -> list[dict]:
    return [json.loads(b) for b in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.S)]


def outside_of_plotly(text: str) -> str:
    from plotly.offline import get_plotlyjs

    assert get_plotlyjs() in text
    return text.replace(get_plotlyjs(), "")


def test_the_page_holds_the_numbers_and_loads_nothing(write_run) -> None:
    run = write_run()
    file = report.write(run)
    assert file == run / "report.html"
    text = outside_of_plotly(file.read_text())
    assert not re.search(r"(?:src|href)=|url\(|@import|https?://|fetch\(", text)
    summary = summary_of()
    for setting in summary["settings"].values():
        for name in ("last", "avg", "forgetting", "bwt"):
            assert f">{setting['metrics'][name]:.1f}<" in text
    for part in ("Chaudhry et al. 2018", "rendered", "animation", "prefers-color-scheme", "train.seed", "2.13.0"):
        assert part in text
    places, drawn = re.findall(r'data-figure="(\w+)"', text), blocks(text)
    assert len(places) == len(set(places)) == len(drawn) == 3 + 2 + 1 + 1


def test_names_from_data_cannot_become_markup(write_run) -> None:
    run = write_run()
    summary = summary_of()
    summary["notes"] = ["<script>alert(1)</script>"]
    summary["tasks"][0]["name"] = "</script><script>alert(2)</script><!--"
    (run / "summary.json").write_text(json.dumps(summary))
    text = report.write(run).read_text()
    assert "<script>alert" not in text and "<b>food</b>" not in text
    assert blocks(text)[0]["data"][1]["x"][0] == "1 </script><script>alert(2)</script><!--"


def test_matrix_shows_each_number_once_learned_or_not() -> None:
    run = summary_of()
    grey, coloured = figures.matrix(run, "given").data
    R = run["settings"]["given"]["R"]
    for t, row in enumerate(R):
        for i, value in enumerate(row):
            assert (coloured.z[t][i], grey.z[t][i]) == ((value, None) if i < t else (None, value))


def test_means_are_over_the_tasks_seen() -> None:
    R = [[1.0, 2.0, 3.0], [90.0, 0.0, 0.0], [80.0, 60.0, 0.0], [70.0, None, 50.0]]
    assert figures.mean_seen(R) == [None, 90.0, 70.0, None]
    assert figures.mean_seen(R, [0, 2]) == [None, 90.0, 80.0, 60.0]


def test_runs_side_by_side_name_what_differs(write_run, tmp_path: Path) -> None:
    runs = [write_run("a"), write_run("b", seed=3, method="ridge")]
    out = report.write(runs, tmp_path / "pages" / "both.html")
    text = outside_of_plotly(out.read_text())
    assert "2 keys." in text and "method.name" in text and "ridge, seed 3" in text
    assert text.count("<h2>") == 2


def test_runs_of_one_name_are_told_apart_by_folder(write_run, tmp_path: Path) -> None:
    text = report.write([write_run("one"), write_run("two")], tmp_path / "both.html").read_text()
    assert "comm, seed 0 (one)" in text and "comm, seed 0 (two)" in text


def test_a_run_without_contributions_or_unseen_tasks_has_its_page(write_run) -> None:
    run = write_run()
    summary = summary_of()
    summary["contributions"] = None
    for setting in summary["settings"].values():
        setting["R"] = [[v if i < t else None for i, v in enumerate(row)] for t, row in enumerate(setting["R"])]
        setting["metrics"]["fwt"] = None
    (run / "summary.json").write_text(json.dumps(summary))
    assert len(blocks(report.write(run).read_text())) == 6


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", None, "not finished"),
        ("summary.json", "{", r"summary\.json: not readable"),
        ("summary.json", "{}", "names no tasks"),
        ("summary.json", "[]", r"summary\.json: not a JSON object"),
        ("summary.json", "[" * 100_000, r"summary\.json: not readable"),
        ("config.json", "[1]", r"config\.json: not a JSON object"),
        ("environment.json", "3", r"environment\.json: not a JSON object"),
        ("metrics.jsonl", '{"event": "start"}\nbroken\n', r"metrics\.jsonl:2: not readable"),
        ("metrics.jsonl", '{"event": "start"}\n[]\n', r"metrics\.jsonl:2: not an event"),
        ("metrics.jsonl", '{"seconds": {"prompts": 1}}\n', r"metrics\.jsonl:1: not an event.*event"),
        ("metrics.jsonl", '{"event": "task", "seconds": {"prompts": 1}}\n', r"metrics\.jsonl:1: .*task"),
        ("metrics.jsonl", '{"event": "start", "seconds": {"prompts": "1"}}', r"jsonl:1: .*seconds\.prompts"),
        ("metrics.jsonl", '{"event": "start", "seconds": [1]}\n', r"metrics\.jsonl:1: .*seconds"),
        ("metrics.jsonl", "\udcff\n", r"metrics\.jsonl:1: not readable"),
    ],
)
def test_a_run_that_cannot_be_read_is_named(write_run, name: str, content: str | None, message: str) -> None:
    run = write_run()
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(RunError, match=message) as caught:
        report.write(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("tasks", {}),
        ("tasks.0", 3),
        ("tasks.2.name", None),
        ("tasks.2.modality", ...),
        ("tasks.2.classes", "cat"),
        ("tasks.2.classes.1", 5),
        ("settings", []),
        ("settings.given", 1),
        ("settings.given.R", ...),
        ("settings.given.R.1", [1.0]),
        ("settings.given.R.1.0", "1"),
        ("settings.given.R", [[1.0] * 6]),
        ("settings.given.metrics", ...),
        ("settings.given.metrics.last", "9"),
        ("settings.given.metrics.per_modality", [1]),
        ("settings.given.metrics.per_modality.image", 1),
        ("settings.given.metrics.per_modality.image.last", "9"),
        ("formulas", None),
        ("notes", "one"),
        ("contributions", [1]),
        ("contributions.modalities", ...),
        ("contributions.matrix.0", 1),
    ],
)
def test_a_summary_with_a_part_missing_or_wrong_is_named(write_run, path: str, value: object) -> None:
    run = write_run()
    summary = place = json.loads(json.dumps(summary_of()))
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in way:
        place = place[part]
    place[last] = value
    if value is ...:
        del place[last]
    (run / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(RunError, match=r"summary\.json: ") as caught:
        report.write(run)
    line = str(caught.value)
    assert "\n" not in line and "--resume" in line and path.split(".")[0] in line


def test_flatten() -> None:
    assert page.flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}


def test_terminal_tables_keep_the_brackets_of_formulas() -> None:
    from rich.console import Console

    from mmcl_fast.report.console import show

    console = Console(width=160, record=True, file=open("/dev/null", "w"))
    show(summary_of(), console)
    text = console.export_text()
    assert "R[T,i] - R[i,i]" in text and "rendered" in text and f"{len(TASKS)} depth-0" in text
    assert "given_masked" in text and "77.5" in text
