import re

import pytest

from mmcl_fast import runs
from mmcl_fast.runs.make_stream import make_stream
from mmcl_fast.runs.time_left import describe_time_left, seconds_left
from tests.runs.conftest import KeptLines, learn
from tests.toy import write_folder


@pytest.fixture
def root(tmp_path):
    return write_folder(tmp_path / "data")


def task_event(modality, samples, **seconds):
    return {"event": "task", "modality": modality, "seconds": seconds, "counts": {"decode and trunk": samples}}


def test_tasks_take_what_samples_of_their_modality_took(config):
    tasks = {task.modality: task for task in make_stream(config()).tasks}
    per_task = len(tasks["image"].train)
    events = [
        {"event": "start", "seconds": {"evaluation": 99.0}, "counts": {}},
        task_event("image", 10, learning=2.0, evaluation=1.0),
        task_event("depth", 20, learning=12.0),
        {"event": "evaluation", "after": 2},
    ]
    assert seconds_left(events, [tasks["image"]], 1) == pytest.approx(0.3 * per_task)
    assert seconds_left(events, [tasks["depth"]], 2) == pytest.approx(2 * 0.6 * per_task)
    assert seconds_left(events, [tasks["text"]], 1) == pytest.approx(15.0 / 30 * len(tasks["text"].train))
    assert seconds_left(events[:1], [tasks["image"]], 1) is None
    assert describe_time_left([task_event("image", 1, learning=3600 / per_task)], [tasks["image"]] * 2, 1) == (
        "2 tasks left, about 2:00:00"
    )


def test_a_run_says_how_long_the_rest_takes(config, tmp_path):
    display = KeptLines()
    runs.learn_stream(config(), tmp_path / "run", progress=display)
    told = [line for line in display.lines if "learned; mean over" in line]
    total = len(told)
    for number, line in enumerate(told[:-1], 1):
        left = total - number
        assert re.search(rf"; {left} tasks? left, about 0:\d\d:\d\d$", line), line
    assert "left" not in told[-1]


def test_a_version_says_it_before_its_first_task(trained, data):
    display = KeptLines()
    learn(trained(), data, progress=display)
    told = [line for line in display.lines if "task" in line and ("left" in line or "learned" in line)]
    assert told[0].startswith("3 tasks left, about 0:0")
    assert ["learned" in line for line in told] == [False, True, True, True]
