"""The intervals, costs and tables of a sweep whose runs kept their predictions."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks import evidence
from mmcl_fast import report
from mmcl_fast.errors import RunError
from mmcl_fast.learning.metrics import summarize
from mmcl_fast.learning.sample_bootstrap import SeedSamples, holm, sample_intervals
from mmcl_fast.report import results, tables
from mmcl_fast.report.console import print_tables
from mmcl_fast.report.figures import cost_points
from mmcl_fast.report.labels import format_bytes, format_seconds
from mmcl_fast.report.read_run import read_run
from mmcl_fast.report.sweep_page import render_sweep_page
from mmcl_fast.runs.prediction_file import PREDICTIONS_FILE
from tests.conftest import TASKS

TASK_OF = np.repeat(np.arange(len(TASKS)), 20)  # twenty test samples a task
KEYS = [f"{TASKS[t][0]}/{i}" for i, t in enumerate(TASK_OF)]
GROUPS = [f"shot-{i // 2}" if TASKS[t][1] == "video" else "" for i, t in enumerate(TASK_OF)]


def answers(rng: np.random.Generator, share: float) -> np.ndarray:
    return rng.random(len(KEYS)) < share


@pytest.fixture
def write_cell(write_run):
    """Return a function that writes a run with predictions: right or wrong for each sample, in given tasks."""

    def write(name: str, right: np.ndarray, tasks: np.ndarray = TASK_OF, cost: dict | None = None) -> Path:
        folder = write_run(name)
        summary = json.loads((folder / "summary.json").read_text())
        names = [summary["tasks"][TASK_OF[np.flatnonzero(tasks == t)[0]]] for t in range(tasks.max() + 1)]
        last = [100 * right[tasks == t].mean() for t in range(len(names))]
        R = [[0.0] * len(names)] + [[80.0] * len(names) for _ in names[1:]] + [last]
        counts = [int((tasks == t).sum()) for t in range(len(names))]
        metrics = summarize(R, counts, [task["modality"] for task in names])
        summary["tasks"], summary["settings"] = names, {"agnostic": {"R": R, "metrics": metrics}}
        summary["state_bytes"] = cost
        (folder / "summary.json").write_text(json.dumps(summary))
        order = np.argsort(tasks, kind="stable")  # a run lists its samples task after task
        labels = [int(TASK_OF[i]) for i in order]
        values = {
            "classes": [[modality, c] for _, modality, (c, _) in TASKS] + [["image", "other"]],
            "keys": [KEYS[i] for i in order],
            "groups": [GROUPS[i] for i in order],
            "tasks": [int(tasks[i]) + 1 for i in order],
            "labels": labels,
            "predicted": {"agnostic": [k if right[i] else len(TASKS) for k, i in zip(labels, order)]},
        }
        (folder / PREDICTIONS_FILE).write_bytes(gzip.compress(json.dumps(values).encode()))
        return folder

    return write


def gap_of(row: dict, metric: str = "last") -> dict:
    return row["statistics"]["agnostic"][metric]["difference"]


def test_last_and_its_difference_are_over_seeds_and_test_samples(write_cell):
    rng = np.random.default_rng(0)
    right = {name: [answers(rng, share) for _ in range(3)] for name, share in (("a", 0.9), ("b", 0.6), ("c", 0.88))}
    rows = [
        ({"title": t}, {s: write_cell(f"{t}{s}", found) for s, found in enumerate(seeds)}) for t, seeds in right.items()
    ]
    found = results.collect(rows, "a")
    modalities = [TASKS[t][1] for t in TASK_OF]
    groups = [f"{m} group {g}" if g else f"{m} sample {k}" for m, g, k in zip(modalities, GROUPS, KEYS)]
    order = sorted(range(len(KEYS)), key=KEYS.__getitem__)
    samples = SeedSamples([groups[i] for i in order], TASK_OF[order])
    for row, name in zip(found["rows"], "abc"):
        values = [np.stack([100.0 * x, 100.0 * x - 100.0 * y])[:, order] for x, y in zip(right[name], right["a"])]
        level, gap = sample_intervals([samples] * 3, values)
        last = row["statistics"]["agnostic"]["last"]
        stored = np.mean([c["settings"]["agnostic"]["metrics"]["last"] for c in row["cells"]])
        assert last["mean"] == pytest.approx(level.mean) == pytest.approx(stored)
        assert (last["low"], last["high"]) == pytest.approx((level.low, level.high))
        assert last["over"] == "seeds and test samples" and (last["samples"], last["groups"]) == (120, 110)
        assert row["statistics"]["agnostic"]["avg"]["over"] == "seeds"
        assert row["statistics"]["agnostic"]["pooled"]["samples"] == 120
        video = row["statistics"]["agnostic"]["per_modality"]["video"]["last"]
        assert (video["samples"], video["groups"]) == (20, 10)
        if name != "a":
            assert gap_of(row)["difference"]["low"] == pytest.approx(gap.low)
            assert gap_of(row)["p"] == pytest.approx(gap.p)
    b, c = (gap_of(row) for row in found["rows"][1:])
    assert [b["holm_p"], c["holm_p"]] == pytest.approx(holm([b["p"], c["p"]]))
    assert b["clear"] and not c["clear"] and b["permutation_p"] == 0.25
    text = tables.write_markdown(found)
    assert "| 120 in 110 |" in text and "| yes |" in text and "| no |" in text
    lines = list(csv.DictReader(tables.write_csv(found).splitlines()))
    line = next(x for x in lines if (x["row"], x["metric"], x["modality"]) == ("b", "last", ""))
    assert float(line["holm_p"]) == b["holm_p"] and line["clear"] == "True" and line["groups"] == "110"


def with_confidence(folder: Path, values: np.ndarray) -> Path:
    """Add confidences to what a run predicted."""
    stored = json.loads(gzip.decompress((folder / PREDICTIONS_FILE).read_bytes()))
    stored["confidence"] = {"agnostic": values.tolist()}
    (folder / PREDICTIONS_FILE).write_bytes(gzip.compress(json.dumps(stored).encode()))
    return folder


def test_the_calibration_error_is_a_column_of_the_first_setting(write_cell):
    right = np.arange(len(KEYS)) % 4 > 0  # three of four
    shares = [np.full(len(KEYS), share) for share in (0.75, 0.85, 0.95)]
    a = {s: with_confidence(write_cell(f"a{s}", right), share) for s, share in enumerate(shares)}
    b = {s: write_cell(f"b{s}", right) for s in range(3)}  # of an earlier version
    mixed = {0: a[0], 1: b[1]}
    found = results.collect([({"title": t}, row) for t, row in (("a", a), ("b", b), ("mixed", mixed))], "a")
    error = found["rows"][0]["statistics"]["agnostic"]["ece"]
    assert error["mean"] == pytest.approx(10) and error["high"] == pytest.approx(34.84, abs=0.01)  # errors 0, 10, 20
    first, *others = tables.make_tables(found)
    at = first.head.index("ece")
    assert first.head[at - 1] == "fwt" and [row[at] for row in first.rows] == ["10.0 ± 24.8", "–", "–"]
    assert not any("ece" in table.head for table in others)
    assert "ece: expected calibration error" in tables.write_markdown(found)
    assert "10.0 ± 24.8" in render_sweep_page(found, "x") and "$10.0 \\pm 24.8$" in tables.write_latex(found)
    lines = [x for x in csv.DictReader(tables.write_csv(found).splitlines()) if x["metric"] == "ece"]
    assert [(x["row"], x["setting"], x["seeds"]) for x in lines] == [
        (t, "agnostic", n) for t, n in (("a", "3"), ("b", "3"), ("mixed", "2"))
    ]
    assert float(lines[0]["mean"]) == error["mean"] and not lines[1]["mean"] and not lines[2]["mean"]


def test_pairs_are_found_by_key_where_classes_change_their_tasks(write_cell):
    """With another division into tasks in each seed, equal answers differ by nothing."""
    rng = np.random.default_rng(1)
    cells: list[dict[int, Path]] = [{}, {}]
    for seed in range(3):
        right, tasks = answers(rng, 0.8), rng.permutation(6)[TASK_OF] if seed else TASK_OF
        tasks = np.where(TASK_OF == 3, tasks[0], tasks) if seed == 2 else tasks  # the images of two tasks in one
        tasks = np.unique(tasks, return_inverse=True)[1]
        for row in range(2):
            cells[row][seed] = write_cell(f"{row}-{seed}", right, tasks)
    found = results.collect([({"title": "a"}, cells[0]), ({"title": "b"}, cells[1])], "a")
    gap = gap_of(found["rows"][1])
    assert (gap["difference"]["mean"], gap["difference"]["high"], gap["p"], gap["clear"]) == (0, 0, 1, False)


def test_a_row_of_one_task_per_modality_is_compared_over_the_tasks_of_the_reference(write_cell):
    rng = np.random.default_rng(2)
    one_task = np.where(TASK_OF == 3, 0, np.where(TASK_OF > 3, TASK_OF - 1, TASK_OF))  # both image tasks together
    right = [answers(rng, 0.8) for _ in range(2)]
    right[0][TASK_OF == 0] = False
    a = {s: write_cell(f"a{s}", r) for s, r in enumerate(right)}
    b = {s: write_cell(f"b{s}", r, one_task) for s, r in enumerate(right)}
    found = results.collect([({"title": "b"}, b), ({"title": "a"}, a)], "a")
    b_row, a_row = found["rows"]
    last = [row["statistics"]["agnostic"]["last"]["mean"] for row in (a_row, b_row)]
    assert last[0] == pytest.approx(last[1]) and gap_of(b_row)["difference"]["mean"] == 0
    own = np.mean([cell["settings"]["agnostic"]["metrics"]["last"] for cell in b_row["cells"]])
    assert own != pytest.approx(last[1], abs=0.5)
    assert any(note.startswith("b: learned other tasks than a") for note in found["notes"])


def test_runs_without_predictions_have_intervals_over_seeds(write_cell):
    rng = np.random.default_rng(3)
    a = {s: write_cell(f"a{s}", answers(rng, 0.9)) for s in range(3)}
    b = {s: write_cell(f"b{s}", answers(rng, 0.5)) for s in range(3)}
    (b[1] / PREDICTIONS_FILE).unlink()
    found = results.collect([({"title": "a"}, a), ({"title": "b"}, b)], "a")
    last = [row["statistics"]["agnostic"]["last"] for row in found["rows"]]
    assert [one["over"] for one in last] == ["seeds and test samples", "seeds"]
    gap = gap_of(found["rows"][1])
    assert gap["difference"]["over"] == "seeds" and gap["p"] == gap["t_p"]
    assert "| b | 3 | seeds alone |" in tables.write_markdown(found)
    assert "seeds alone" in render_sweep_page(found, "x")


def test_one_seed_has_an_interval_over_test_samples_and_common_seeds_are_compared(write_cell):
    rng = np.random.default_rng(4)
    a = {s: write_cell(f"a{s}", answers(rng, 0.9)) for s in (0, 1)}
    b = {s: write_cell(f"b{s}", answers(rng, 0.5)) for s in (1, 2)}
    found = results.collect([({"title": "a"}, a), ({"title": "b"}, b), ({"title": "none"}, {})], "a")
    gap = gap_of(found["rows"][1])["difference"]
    assert gap["n"] == 1 and gap["over"] == "test samples" and gap["high"] < 0
    assert found["rows"][1]["statistics"]["agnostic"]["last"]["n"] == 2


def test_other_samples_are_not_paired(write_cell):
    a, b = (write_cell(name, np.ones(len(KEYS), bool)) for name in "ab")
    values = json.loads(gzip.decompress((b / PREDICTIONS_FILE).read_bytes()))
    values["keys"][0] = "another"
    (b / PREDICTIONS_FILE).write_bytes(gzip.compress(json.dumps(values).encode()))
    found = results.collect([({"title": "a"}, {0: a}), ({"title": "b"}, {0: b})], "a")
    assert gap_of(found["rows"][1])["difference"]["over"] == "seeds"
    (b / PREDICTIONS_FILE).write_bytes(b"damaged")
    with pytest.raises(RunError, match="not readable"):
        results.collect([({"title": "b"}, {0: b})], "b")


def test_intervals_can_be_computed_again_from_what_evidence_stores(write_cell, tmp_path):
    rng = np.random.default_rng(5)
    a = {s: write_cell(f"a{s}", answers(rng, 0.9), rng.permutation(6)[TASK_OF]) for s in range(3)}
    b = {s: write_cell(f"b{s}", answers(rng, 0.6)) for s in range(3)}
    c = {s: write_cell(f"c{s}", answers(rng, 0.6)) for s in range(2)}
    (c[0] / PREDICTIONS_FILE).unlink()
    values = json.loads(gzip.decompress((b[2] / PREDICTIONS_FILE).read_bytes()))
    values |= {key: values[key][1:] for key in ("keys", "groups", "tasks", "labels")}
    values["predicted"] = {"agnostic": values["predicted"]["agnostic"][1:]}  # a run that left out a broken file
    (c[1] / PREDICTIONS_FILE).write_bytes(gzip.compress(json.dumps(values).encode()))
    found = results.collect([({"title": t}, row) for t, row in (("a", a), ("b", b), ("c", c))], "a")
    for row in found["rows"]:
        for cell in row["cells"]:
            cell["folder"] = cell["folder"].split("/")[-1]
    stored = json.loads(json.dumps(evidence.right_answers(tmp_path, found)))
    again = {row["title"]: row["statistics"]["agnostic"]["last"] for row in evidence.recompute(stored)}
    for row in found["rows"][:2]:
        last = row["statistics"]["agnostic"]["last"]
        assert (again[row["title"]]["low"], again[row["title"]]["high"]) == pytest.approx((last["low"], last["high"]))
    assert again["b"]["difference"]["p"] == pytest.approx(gap_of(found["rows"][1])["p"])
    assert len(stored["cells"]) == 7 and [cell["samples"] is None for cell in stored["cells"]] == [True] * 6 + [False]
    (tmp_path / "x-samples.json.gz").write_bytes(gzip.compress(json.dumps(stored).encode()))
    table = evidence.check(tmp_path / "x-samples.json.gz")
    assert f"| b | agnostic | {tables.format_mean(again['b'])} |" in table


def test_costs_and_what_a_row_reads_are_in_every_table(write_cell):
    right = np.ones(len(KEYS), bool)
    size = {"fixed": 1_240_000, "of_classes": 24_000, "classes": 12, "all_data": False}
    a = {0: write_cell("a", right, cost=size)}
    b = {0: write_cell("b", right, cost={**size, "all_data": True})}
    c = {0: write_cell("c", right)}
    rows = [
        ({"title": "a", "features": "zq", "tuned": {"trials": 16}}, a),
        ({"title": "b", "features": "", "tuned": None}, b),
        ({"title": "c"}, c),
    ]
    found = results.collect(rows, "a")
    assert found["rows"][0]["cost"] == {"seconds": 6.0, **size}
    for table in tables.make_tables(found):
        assert table.head[-3:] == ["fixed", "a class", "seconds"]
        cells = {row[0]: row[-3:] for row in table.rows}
        assert cells["b"] == ["1.24 MB +data", "2.00 kB", "6.00"] and cells["c"] == ["–", "–", "6.00"]
    assert tables.make_tables(found)[0].rows[0][:4] == ["a", "zq", "16 trials", "1"]
    assert tables.make_tables(found)[0].rows[1][:4] == ["b", "–", "no", "1"]
    lines = list(csv.DictReader(tables.write_csv(found).splitlines()))
    costs = {x["metric"]: x["mean"] for x in lines if x["row"] == "a" and not x["setting"]}
    assert costs == {"fixed_bytes": "1240000", "bytes_of_classes": "24000", "classes": "12", "seconds": "6.0"}
    page = render_sweep_page(found, "x")
    assert "Accuracy and cost" in page and "last over bytes kept" in page


def test_a_report_of_runs_says_what_their_methods_keep(write_cell):
    size = {"fixed": 1_240_000, "of_classes": 24_000, "classes": 12, "all_data": False}
    right = np.ones(len(KEYS), bool)
    folders = [
        write_cell(f"run{n}", right, cost=cost) for n, cost in enumerate((size, {**size, "all_data": True}, None))
    ]
    page = report.write(folders).with_suffix(".md").read_text()
    assert (
        "| 1.24 MB | 2.00 kB | 6.00 |" in page and "| 1.24 MB +data | 2.00 kB |" in page and "| – | – | 6.00 |" in page
    )
    assert (
        "| shared by all classes | of its 12 classes |" in page and "| 1.24 MB | 24.0 kB | 2.00 kB | 1.26 MB |" in page
    )
    assert page.count("Bytes kept") == 2 and page.count("needs the data of all tasks") == 2
    console = Console(record=True, width=200)
    print_tables(read_run(folders[1]), console)
    assert "The method keeps 1.24 MB +data, and 2.00 kB a class besides" in console.export_text()
    summary = json.loads((folders[0] / "summary.json").read_text())
    summary["state_bytes"]["fixed"] = "many"
    (folders[0] / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(RunError, match=r"summary\.json: state_bytes\.fixed"):
        read_run(folders[0])


def test_the_line_through_the_best_rows_of_each_cost():
    costs, values = [10, 100, 50, 0, None], [50.0, 90.0, 40.0, 99.0, 98.0]
    figure = cost_points(["a", "b", "c", "d", "e"], costs, values, [1.0, None, 2.0, 0, 0], ("x", "y"), str)
    line, *points = figure["data"]
    assert (line["x"], line["y"]) == ([10, 100], [50.0, 90.0])
    assert [p["name"] for p in points] == ["a", "b", "c"] and figure["layout"]["xaxis"]["type"] == "log"
    assert figure["layout"]["xaxis"]["ticktext"] == ["10", "20", "50", "100", "200"]
    nothing = cost_points(["a"], [None], [1.0], [None], ("x", "y"), str)
    assert nothing["layout"]["xaxis"]["tickvals"] == [] and len(nothing["data"]) == 1


def test_numbers_of_bytes_and_seconds():
    assert [format_bytes(n) for n in (None, 0, 999, 1000, 147_456, 1_240_000, 999_960)] == [
        "–",
        "0 B",
        "999 B",
        "1.00 kB",
        "147 kB",
        "1.24 MB",
        "1.00 MB",
    ]
    assert [format_seconds(s) for s in (None, 0.5, 12.0, 1234.5)] == ["–", "0.500", "12.0", "1,234"]
