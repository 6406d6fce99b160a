import json
import os
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import (
    plain_loop,
    suite,
    train,
    train_checkpoints,
    train_data,
    train_growth,
    train_rows,
    train_scale,
    train_tables,
)
from benchmarks.rivals import CannotRun
from mmcl_fast import bench, cli
from mmcl_fast.learning import Learner
from mmcl_fast.media import sniff
from mmcl_fast.methods.comm.method import CommOptions
from tests.toy import ToyEncoder

OPTIONS = CommOptions(**plain_loop.SIMPLEST, epochs=2, steps=10, sampled_features=64)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    return train_data.write_media(tmp_path_factory.mktemp("media"), classes=4, train=3, test=2, small=True)


def stream(media):
    return train_data.make_stream(str(media), 2, 0)


def test_the_media_are_what_they_are_called(media):
    files = [f for f in media.rglob("*") if f.is_file()]
    assert len(files) == 2 * 4 * (3 + 2) and all(sniff(f) in f.parts for f in files)
    tasks = stream(media).tasks
    assert [len(t.train) for t in tasks] == [6] * 4 and {t.modality for t in tasks} == {"image", "audio"}


def test_the_plain_loop_learns_what_the_learner_learns(media, tmp_path):
    """The same prompts, statistics and answers, or speeds would not compare."""
    learner = Learner(ToyEncoder(), "comm", options=vars(OPTIONS), device="cpu", cache_dir=tmp_path)
    plain = plain_loop.PlainComm(ToyEncoder(), OPTIONS, seed=0, workers=0)
    tasks = stream(media)
    for task in tasks:
        learner.learn(task)
        plain.begin(task)
        batches = plain.loader(plain.sequential.dataset, shuffle=True, generator=plain.generator)  # one a task
        adam, rate = plain.optimiser(len(batches) * OPTIONS.epochs)
        for _ in range(OPTIONS.epochs):
            for x, labels, number in batches:
                adam.zero_grad()
                z, _ = plain.forward(x, task.modality)
                plain.loss(z, labels, number).backward()
                adam.step()
                rate.step()
        plain.end()
        want, got = learner.method.bank.prompts[task.modality], plain.bank.prompts[task.modality].flatten()
        assert (want - got).norm() < 0.05 * want.norm()  # tokens are kept in bfloat16, and Adam starts with signs
    assert torch.equal(plain.texts, learner.classes.embedding)
    for modality, known in learner.method.memory.counts.items():
        assert plain.comm.memory.counts[modality] == known
        torch.testing.assert_close(
            plain.comm.memory.means(modality), learner.method.memory.means(modality), rtol=0, atol=0.01
        )
    for task in tasks:
        data = plain.media(task, "test")
        tokens = learner.cache.tokens(learner.encoder, task.test)
        want = learner.method.scores(tokens, task.modality, learner.classes, given=False)
        got = learner.encoder.logit_scale * plain.scores(
            torch.stack([data[i][0] for i in range(len(data))]), task.modality
        )
        assert (want - got).abs().max() < 0.2 * want.std()


class Counted(ToyEncoder):
    """Counts the samples that its head embeds without a prefix."""

    bare = 0

    def head(self, tokens, prefix, modality):
        self.bare += len(tokens) * (prefix is None)
        return super().head(tokens, prefix, modality)


@pytest.mark.parametrize("row", train_rows.ROWS)
def test_every_row(row, media, tmp_path):
    encoder, tasks = Counted(), stream(media)
    try:
        out = train_rows.ROWS[row](
            encoder, tasks, OPTIONS, seed=0, folder=tmp_path, **({"workers": 0} if train_rows.is_plain(row) else {})
        )
    except CannotRun as error:
        assert "avalanche" in str(error) and "Avalanche" in row
        pytest.skip(str(error))
    assert out["trained"] == 24 and out["evaluated"] == 4 * (1 + 2 + 3 + 4)
    assert len(out["R"]) == 5 and None not in out["R"][-1] and 0 <= out["last"] <= 100
    assert 0 < out["later epochs"] < out["seconds"]["prompts"] < out["total"] and json.dumps(out)
    steps, runs = 24 * OPTIONS.epochs, len(encoder.trunk_calls)
    if row == "ours":
        assert runs == 4 * 8 + 4 * 8 + 2 * 6  # batches of 8 are filled up; the last: timed alone
    elif "torch.compile" in row:
        assert runs == 4 * 8 + 4 * 8
    elif row == "ours, cache off":
        assert runs > steps
    elif "query from the files" in row or "two-forward" in row:
        assert runs > steps and encoder.bare > steps
    elif "one forward" in row:
        assert runs > steps and encoder.bare == 4 * 6 + 6  # units of each task's prefix, and one test of borrowing
    else:
        assert runs < steps + 64 < encoder.bare + 64


def test_growth():
    rows = [r for fresh in (True, False) for r in train_growth.grow([1, 4], fresh=fresh, train=16, test=1)]
    assert [(r["tasks"], r["classes"]) for r in rows] == [(1, 10), (4, 40), (1, 5), (4, 10)]
    for row in rows:
        assert row["learn"] == pytest.approx(row["re-alignment"] + row["statistics"] + row["the rest"])
        assert min(row["re-alignment"], row["statistics"], row["the rest"]) > 0 and row["resident MB"] > 0
        assert row["bytes per class"] == (OPTIONS.class_rank + 2) * 4 * (train_growth.WIDTH + train_growth.QUERY)
    assert rows[1]["checkpoint MB"] > rows[3]["checkpoint MB"]
    assert len(train_tables.growth_table(rows)[0]) == len(train_tables.GROWTH_COLUMNS)


def run_of(total, later, **more):
    return {
        "last": 80.0,
        "total": total,
        "later epochs": later,
        "trained": 10,
        "evaluated": 6,
        "peak MB": 5.0,
        "seconds": {"prompts": 2.0, "evaluation": 3.0},
        **more,
    }


def test_tables():
    results = [
        {"encoder": "e", "row": "ours", "runs": [run_of(10, 1, alone={"decode": 7, "trunk": 8}), run_of(20, 1)]},
        {"encoder": "e", "row": "plain", "runs": [run_of(30, 4), run_of(100, 6)]},
        {"encoder": "e", "row": "else", "runs": [{"why": "not here"}]},
    ]
    results[0]["runs"][1]["alone"] = {"decode": 9, "trunk": 8}
    lines = train_tables.result_table(results, epochs=3)
    assert lines[1] == ["e", "plain", "80.0 (80.0 to 80.0)", "65.0 (30.0 to 100.0)", "4.00", "4 (3 to 5)", "5.00", "5"]
    assert lines[2][2] == "(not here)" and {len(line) for line in lines} == {len(train_tables.COLUMNS)}
    columns, table = train_tables.PHASE_COLUMNS, train_tables.phase_table(results, epochs=3)
    ours = dict(zip(columns, table[0]))
    assert ours["decode alone"] == "8" and ours["prompts, all epochs"] == "15" and ours["evaluation"] == "2"
    assert len(table) == 2 and table[1][2] == ""


def test_rows_are_picked_by_name():
    assert train.choose_rows("ours") == ["ours"] and len(train.choose_rows("")) == 5
    assert train.choose_rows("plain;cache off") == ["ours, cache off", *[r for r in train_rows.ROWS if "plain" in r]]


def test_memory_counts_children():
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'x = bytearray(1 << 26); input()'])"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as process:
        most = 0
        for _ in range(400):
            most = max(most, train.process_memory(process.pid))
            if most > 1 << 26:
                break
            train.time.sleep(0.05)
        process.communicate(b"\n")
    assert most > 1 << 26 and train.process_memory(process.pid) == 0


def test_the_command_writes_its_results(tmp_path, monkeypatch, capsys):
    """Growth only; and a row whose process fails says why."""
    monkeypatch.setattr(suite, "HERE", tmp_path)
    monkeypatch.setattr(
        train,
        "run_and_watch",
        lambda module, asked, environment: (
            {"rows": train_growth.grow([1], fresh=True, train=2, test=1)}
            if "growth" in module
            else {"why": "exit code 1: no"}
        ),
    )
    monkeypatch.setattr(sys, "argv", ["train", "--quick", "--out", "kept", "--rows", "ours", "--encoder", "embedded"])
    assert train.main() == 1
    text = (tmp_path / "results" / "kept.md").read_text()
    assert "| embedded | **ours** | (exit code 1: no) |" in text and "bytes per class" in text
    assert text.strip() in capsys.readouterr().out
    assert json.loads((tmp_path / "results" / "kept.json").read_text())["results"][0]["row"] == "ours"


def test_a_row_in_its_own_process(media, tmp_path):
    asked = {
        "row": "ours",
        "encoder": str(tmp_path / "none"),
        "device": "cpu",
        "data": str(media),
        "seed": 0,
        "classes_per_task": 1,
        "options": OPTIONS.model_dump(),
        "folder": str(tmp_path),
    }
    out = train.run_and_watch("benchmarks.train_rows", asked, {"PYTHONPATH": os.getcwd()})
    assert str(tmp_path / "none") in out["why"] and out["peak MB"] > 10


def test_the_cli_hands_its_options_on(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(
        bench.subprocess,
        "run",
        lambda command, cwd, env: calls.append(command) or subprocess.CompletedProcess(command, 3),
    )
    result = CliRunner().invoke(cli.app, ["bench", "train", "--quick", "--seeds", "3", "--data", str(tmp_path)])
    assert result.exit_code == 3
    assert calls[0][1:] == [
        "-m",
        "benchmarks.train",
        "--rows",
        "",
        "--growth",
        "yes",
        "--seeds",
        "0",
        "1",
        "2",
        "--data",
        str(tmp_path),
        "--quick",
    ]
    result = CliRunner().invoke(cli.app, ["bench", "train", "--data", "nowhere"])
    assert result.exit_code == 2 and "nowhere" in result.stderr


def test_checkpoints_inside_a_task_are_taken_in_every_second_run(media, tmp_path):
    result = train_checkpoints.measure(ToyEncoder(), stream(media), vars(OPTIONS), tmp_path, every=4, pairs=2)
    assert result["checkpoints"] == 2 * ((10 + 2) // 4) and result["bytes"] > 1000  # 2 epochs of a batch, 10 steps
    assert len(result["pairs"]) == len(result["writing"]) == 2
    assert all(0 < own < kept and bare > 0 for own, (bare, kept) in zip(result["writing"], result["pairs"]))
    rows = [
        {
            "encoder": "e",
            "every": 9,
            "checkpoints": 4,
            "bytes": 5e6,
            "pairs": [[1, 1.1], [2, 2], [4, 6]],
            "writing": [0.011, 0.1, 0.06],
        },
        {"encoder": "e", "why": "no"},
    ]
    cells = train_checkpoints.table(rows)
    assert cells[0] == ["e", "9", "4", "5.00", "2.00", "2.00", "10.0 % (0.0 to 50.0)", "1.0"] and cells[1][1] == "(no)"
    assert {len(row) for row in cells} == {len(train_checkpoints.COLUMNS)}


def test_scaling(media):
    asked = {
        "data": str(media),
        "classes_per_task": 2,
        "device": "cpu",
        "options": {"epochs": 1, "realignment": "trained", "steps": 5, "sampled_features": 16},
    }
    result = train_scale.measure("toy", asked, 1, (sys.executable, "-m", "tests.runs.ranks"))[0]
    assert result["trained"] == 24 and result["seconds"].keys() == set(train_scale.PHASES.values())
    assert train_scale.process_counts(6) == [1, 2, 4, 6]
    two = {**result, "processes": 2, "seconds": {k: v / 1.6 for k, v in result["seconds"].items()}}
    lines = train_scale.table([result, two, {"processes": 4, "threads": 1, "why": "exit code 2: no"}])
    assert lines[0][3] == "1.00" and lines[1][3] == "0.80" and lines[2][-1] == "(exit code 2: no)"
    assert {len(line) for line in lines} == {len(train_scale.COLUMNS)}
