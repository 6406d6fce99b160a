"""Crashes and hangs of DALI: dangerous files are kept from it, and a call that does not return is abandoned."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from mmcl_fast.media import loader
from mmcl_fast.media.engines.dali import engine as dali
from mmcl_fast.media.engines.dali import pipeline_thread
from tests.media.dali_files import broken, damaged, scene, scenes
from tests.media.engines.test_dali import batches_of, needs_dali
from tests.media.files import plain

MANY = """
import sys
from pathlib import Path
from mmcl_fast.media import loader
from tests.media.files import plain
from tests.media.dali_files import Item

items = [Item("image", path) for path in sorted(Path(sys.argv[1]).iterdir())]
for _ in range(10):  # without the limit a crash came with the second to fourth
    batches = loader(items, plain(size=32), backend="dali", batch_size=len(items))
    assert [len(numbers) for numbers, _ in batches] == [len(items)] and batches.stats.fallbacks == 1
"""


@needs_dali
def test_a_header_that_dali_cannot_read_among_many(tmp_path):
    """In a group of 32 or more files the process would crash."""
    for i in range(70):
        scene(40, 40, i).save(tmp_path / f"{i:02}.jpg")
    path = tmp_path / "00.jpg"
    jpeg = path.read_bytes()
    scan = jpeg.index(b"\xff\xda")
    path.write_bytes(jpeg[:scan] + b"\0\0" + jpeg[scan:])  # between two segments, where Pillow ignores it
    run = subprocess.run(
        [sys.executable, "-c", MANY, str(tmp_path)], cwd=Path(__file__).parents[3], text=True, capture_output=True
    )
    assert run.returncode == 0, f"{run.returncode}: {run.stderr[-2000:]}"


@needs_dali
def test_groups_are_small_and_of_one_size(tmp_path, monkeypatch):
    items, sizes, schedule = scenes(tmp_path, 70), [], dali._Run._schedule
    monkeypatch.setattr(
        dali._Run, "_schedule", lambda run, group: sizes.append(len(group.slots)) or schedule(run, group)
    )
    for count, wanted in ((31, [31]), (32, [16, 16]), (70, [24, 24, 22])):
        sizes.clear()
        (chunk,) = dali.DaliEngine(plain(size=32), batch_size=count).run(items, [list(range(count))])
        assert sizes == wanted and chunk.fallback == 0 and not chunk.faults


@pytest.fixture
def hung(monkeypatch):
    """Make the n-th call of a step in the pipeline's thread hang, counted from 1."""
    go_on = threading.Event()

    def hang(step: str, number: int) -> None:
        calls, work = [], getattr(pipeline_thread, step)

        def slow(*values):
            calls.append(1)
            if len(calls) == number:
                go_on.wait(60)
            return work(*values)

        monkeypatch.setattr(pipeline_thread, step, slow)

    monkeypatch.setattr(pipeline_thread, "CALL_TIMEOUT", 0.3)
    yield hang
    go_on.set()


@needs_dali
@pytest.mark.parametrize(
    "step, number, done", [("_build", 1, 0), ("_feed", 1, 0), ("_feed", 3, 0), ("_outputs", 1, 0), ("_outputs", 2, 1)]
)
def test_what_does_not_come_back_is_left_to_itself(tmp_path, hung, step, number, done):
    items, spec = scenes(tmp_path, 30), plain(size=40)
    broken(items[17].path)
    wanted = {
        n: row
        for numbers, batch in loader(items, spec, backend="cpu", on_error="skip")
        for n, row in zip(numbers, batch)
    }
    hung(step, number)
    batches = loader(items, spec, backend="dali", batch_size=4, on_error="skip")
    with pytest.warns(RuntimeWarning, match="did not come back"):
        found = {n: row for numbers, batch in batches for n, row in zip(numbers, batch)}
    assert list(found) == list(wanted) and [n for n, _ in batches.faults] == [17]
    assert all(torch.allclose(found[n], wanted[n], atol=1e-5) for n in found)
    assert batches.stats.fallbacks >= len(items) - 4 * (done + dali.GROUPS_IN_PIPELINE)
    again = list(batches)  # not tried again
    assert batches.stats.fallbacks >= 2 * len(items) - 4 * (done + dali.GROUPS_IN_PIPELINE) and len(again) == 8


@needs_dali
def test_a_pipeline_that_cannot_be_closed(tmp_path, monkeypatch):
    """After an error DALI waits for its threads."""
    go_on, closing = threading.Event(), []

    class Slow:
        def __init__(self, pipe):
            self.pipe = pipe

        def __getattr__(self, name):
            return getattr(self.pipe, name)

        def __del__(self):
            closing.append(1)
            go_on.wait(60)

    items = scenes(tmp_path, 12)
    damaged(items[5].path)
    engine = dali.DaliEngine(plain(size=40), batch_size=4)
    build = engine._build
    monkeypatch.setattr(engine, "_build", lambda: Slow(build()))
    monkeypatch.setattr(pipeline_thread, "CALL_TIMEOUT", 2.0)  # building takes less
    try:
        with pytest.warns(RuntimeWarning, match="did not come back"):
            chunks = list(engine.run(items, batches_of(12, 4)))
        assert [chunk.fallback for chunk in chunks] == [0, 4, 4] and not any(chunk.faults for chunk in chunks)
        assert len(closing) == 1
    finally:
        go_on.set()


@needs_dali
def test_nothing_is_left_open(tmp_path):
    before = set(threading.enumerate())
    items = scenes(tmp_path, 6)
    damaged(items[2].path)
    engine = dali.DaliEngine(plain(size=40), batch_size=2)
    list(engine.run(items, batches_of(6, 2)))
    run = engine.run(items, batches_of(6, 2))
    next(run)
    run.close()
    del run, engine
    assert set(threading.enumerate()) <= before
