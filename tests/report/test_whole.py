"""Reports of runs that recorded everything, after their data was deleted."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmcl_fast import report
from mmcl_fast.errors import RunError
from mmcl_fast.learning.forgotten_classes import find_forgotten_classes
from mmcl_fast.report.read_run import read_run, read_run_with_samples
from mmcl_fast.report.sections.contributions import when_learned
from mmcl_fast.report.sections.embeddings import project
from mmcl_fast.report.sections.unknown_samples import count_flagged
from mmcl_fast.runs import sample_file
from mmcl_fast.runs.prediction_file import PREDICTIONS_FILE, read_predictions, write_predictions
from tests.report.test_report import figures_of


@pytest.fixture
def finetune(whole_runs: dict[str, Path], tmp_path: Path) -> Path:
    """Return a copy of the run, to change."""
    return Path(shutil.copytree(whole_runs["finetune"], tmp_path / "finetune"))


def written(run: Path, out: Path) -> tuple[str, str]:
    file = report.write(run, out / "page.html")
    return file.read_text(), file.with_suffix(".md").read_text()


def test_contributions_when_new_and_at_the_end(whole_runs: dict[str, Path], tmp_path: Path) -> None:
    run = read_run(whole_runs["comm"])
    names, end = run["contributions"]["modalities"], run["contributions"]["matrix"]
    assert names == ["video", "image", "audio", "text", "depth"]
    new = when_learned(run, names)
    for m, row in enumerate(new):
        assert None not in row[: m + 1] and row[m + 1 :] == [None] * (len(names) - m - 1)
        assert sum(row[: m + 1]) == pytest.approx(1, abs=1e-5)
    assert new[0][0] == 1 and new[4] != end[4]  # the second depth task changes its row
    html, text = written(whole_runs["comm"], tmp_path)
    for page in (html, text):
        assert f"{new[1][0]:.3f}" in page and f"{end[1][0]:.3f}" in page and "What changed" in page
        assert f"{end[0][0]:.3f}" in page


def test_embeddings_before_and_after_on_one_plane(whole_runs: dict[str, Path], tmp_path: Path) -> None:
    found = sample_file.read_samples(whole_runs["comm"])
    html, text = written(whole_runs["comm"], tmp_path)
    blocks = [json.loads(block) for block in re.findall(r'/json" id="\w+">(.*?)</script>', html)]
    plots = [block for block in blocks if isinstance(block, dict) and any("customdata" in t for t in block["data"])]
    assert len(plots) == 2 and plots[0]["layout"]["xaxis"]["range"] == plots[1]["layout"]["xaxis"]["range"]
    stars = [plot["data"][-1] for plot in plots]
    assert stars[0]["x"] == stars[1]["x"] and len(stars[0]["x"]) == len(found.classes) == 16
    assert sum(len(trace["x"]) for trace in plots[0]["data"][:-1]) == sum(s.drawn for s in found.samples) == 64
    samples_of_plot = next(block for block in blocks if isinstance(block, list))
    assert len(samples_of_plot) == 64
    assert all(one.keys() >= {"about"} and ("picture" in one) != ("text" in one) for one in samples_of_plot)
    for page in (html, text):
        assert "before re-alignment" in page and "after re-alignment" in page


def test_methods_without_realignment_have_one_plot(whole_runs: dict[str, Path], tmp_path: Path) -> None:
    html, text = written(whole_runs["finetune"], tmp_path)
    assert html.count('role="application"') == 1 and "under the tower" in text
    assert "blends nothing of one modality into another" in html


def test_projection_keeps_what_lies_in_a_plane() -> None:
    generator = np.random.default_rng(0)
    flat, turned = generator.normal(size=(30, 2)), np.linalg.qr(generator.normal(size=(7, 7)))[0][:2]
    rows = (flat @ turned).astype(np.float32)
    (a, b), stars, held = project([rows[:10], rows[10:20]], rows[20:])
    assert sum(held) == pytest.approx(1, abs=1e-5) and held[0] >= held[1]
    out = np.concatenate([a, b, stars])
    apart = [np.linalg.norm(x[:, None] - x[None], axis=2) for x in (flat, out)]
    assert np.abs(apart[0] - apart[1]).max() < 1e-4


def test_classes_that_fell_with_examples_and_what_they_are_taken_for(finetune: Path, tmp_path: Path) -> None:
    run = read_run(finetune)
    found = find_forgotten_classes(run["tasks"], run["events"], "agnostic")
    assert found and found == sorted(found, key=lambda fall: -fall.forgetting)
    last = next(e for e in run["events"] if e["event"] == "evaluation" and e["after"] == len(run["tasks"]))
    assert last["setting"] == "agnostic"
    for fall in found:
        history = [
            event["by_class"][fall.task - 1][fall.class_index]
            for event in run["events"]
            if event["event"] == "evaluation" and event["setting"] == "agnostic" and event["after"] >= fall.task
        ]
        assert (max(history), history[-1], fall.test_samples) == (fall.best_correct, fall.final_correct, 4)
        assert sum(count for _, count in fall.confused_with) == fall.test_samples - fall.final_correct
    html, text = written(finetune, tmp_path)
    worst = found[0]
    task = run["tasks"][worst.task - 1]
    row = next(
        line for line in text.splitlines() if line.startswith(f"| {task['classes'][worst.class_index]} | {worst.task} ")
    )
    assert f"{worst.forgetting:.1f}" in row and row.count("taken for ") == worst.test_samples - worst.final_correct
    assert len(re.findall(r'<img src="data:image/webp;base64,[^"]+" alt="', html)) > 4


def test_known_samples_are_shown_beside_new_ones(finetune: Path, tmp_path: Path) -> None:
    run = read_run_with_samples(finetune)
    found = run["predictions"]
    of_image = np.array([run["tasks"][n - 1]["modality"] == "image" for n in found.tasks])
    event = next(e for e in run["events"] if e["event"] == "unknown" and e["modality"] == "image")
    groups = {(g.modality, g.is_new): g for g in count_flagged(run, found)}
    known, new = groups["image", False], groups["image", True]
    assert known.samples == of_image.sum() == 16 and new.samples == event["new"] == 8
    assert known.share(5) == 100 * np.mean(found.unknown[of_image] >= 0.95)
    assert new.share(5) == 100 * event["flagged"][4] / 8 and new.auroc == event["auroc"]
    html, text = written(finetune, tmp_path)
    head = "|  | samples | at 1 % | at 5 % | at 10 % | AUROC |"
    rows = text[text.index(head) :].splitlines()
    assert f"| image | 16 | {known.share(1):.1f} | {known.share(5):.1f} | {known.share(10):.1f} |  |" in rows
    shares = [f"{new.share(p):.1f}" for p in (1, 5, 10)]
    assert f"| image, new | 8 | {' | '.join(shares)} | {event['auroc']:.3f} |" in rows
    lines = next(f["data"] for f in figures_of(html) if "promised rate" in str(f["layout"]))
    drawn = {line["name"]: line["y"] for line in lines[1:]}
    assert drawn["image"] == [known.share(p) for p in range(1, 101)] and drawn["image, new"][4] == new.share(5)
    assert "were tested before it was learned" in text and "had not learned" not in text


def test_what_is_not_known_of_unknown_samples_is_said(finetune: Path, tmp_path: Path) -> None:
    log = finetune / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(line for line in lines if '"event": "unknown"' not in line))
    text = written(finetune, tmp_path)[1]
    assert (
        "This run tested no samples of classes that it had not learned" in text
        and "| image |" in text
        and "| image, new |" not in text
    )
    found = read_predictions(finetune)
    found.unknown[:] = np.nan
    write_predictions(finetune / PREDICTIONS_FILE, found)
    assert "No test sample has an unknown score" in written(finetune, tmp_path)[1]
    write_predictions(finetune / PREDICTIONS_FILE, replace(found, unknown=None))
    text = written(finetune, tmp_path)[1]
    assert "Known against unknown" not in text and "How sure it is" in text  # of an older version


def test_runs_that_forgot_nothing_or_cannot_say_so_do(finetune: Path, tmp_path: Path) -> None:
    events = [json.loads(line) for line in (finetune / "metrics.jsonl").read_text().splitlines()]
    whole = (finetune / "summary.json").read_text()

    def report_after(change) -> str:
        summary = json.loads(whole)
        changed = json.loads(json.dumps(events))
        change(summary, changed)
        (finetune / "summary.json").write_text(json.dumps(summary))
        (finetune / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in changed))
        return written(finetune, tmp_path)[1]

    def steady(summary: dict, changed: list[dict]) -> None:
        for event in changed:
            if "by_class" in event:
                event["by_class"] = [part and [4] * len(part) for part in event["by_class"]]

    def at_once(summary: dict, changed: list[dict]) -> None:  # as the method joint, which is evaluated at the end alone
        changed[:] = [event for event in changed if event.get("after", 99) >= len(summary["tasks"])]

    def older(summary: dict, changed: list[dict]) -> None:
        for task in summary["tasks"]:
            del task["test_by_class"]

    assert "No class is right less often" in report_after(steady)
    assert "not known which classes this run forgot" in report_after(at_once)
    assert "not known which classes this run forgot" in report_after(older)

    def other_stream(summary: dict, changed: list[dict]) -> None:
        for event in changed:
            event.pop("taken_for", None)
            if "by_class" in event:
                event["by_class"] = event["by_class"][:1]

    with pytest.raises(RunError, match=r"metrics\.jsonl: right answers by class of other tasks"):
        report_after(other_stream)


def test_a_run_without_samples_says_how_to_get_them(finetune: Path, tmp_path: Path) -> None:
    (finetune / sample_file.SAMPLES_FILE).unlink()
    for text in written(finetune, tmp_path):
        assert "samples.safetensors is not in the run folder" in text and "--resume" in text
    text = report.write([finetune, finetune], tmp_path / "two.html").read_text()
    assert text.count("samples.safetensors is not in the run folder") == 2


def test_phases_with_their_work(whole_runs: dict[str, Path], tmp_path: Path) -> None:
    run = read_run(whole_runs["finetune"])
    text = written(whole_runs["finetune"], tmp_path)[1]
    rows = {line.split(" | ")[0]: line for line in text.splitlines()}
    trained = sum(task["train"] for task in run["tasks"])
    assert f"{trained} samples" in rows["| decode and trunk"] and " samples/s" in rows["| decode and trunk"]
    steps = sum(event["counts"]["prompts"] for event in run["events"] if event["event"] == "task")
    assert f"{steps} steps" in rows["| prompts"] and " steps/s" in rows["| prompts"]


def test_out_must_name_the_html_file(whole_runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"report\.html"):
        report.write(whole_runs["comm"], tmp_path / "report.md")
