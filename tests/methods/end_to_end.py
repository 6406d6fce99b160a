"""A method from end to end on the toy stream: what every method has to hold."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from mmcl_fast import runs
from mmcl_fast.config import build_config
from mmcl_fast.learning import checkpoint, learner
from mmcl_fast.learning.learner import Learner
from mmcl_fast.methods import method_class
from mmcl_fast.runs import task_checkpoints
from mmcl_fast.runs.make_stream import make_stream
from tests.toy import ToyEncoder, write_folder


@contextmanager
def toy_encoder():
    """Runs load the toy encoder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "load_encoder", lambda name, **options: ToyEncoder())
        yield


def make_config(folder: Path, method: str, options: dict, **train):
    """Four classes each of image, depth and text, two classes a task, in random order."""
    root = folder / "data"
    if not root.is_dir():
        write_folder(root)
    return build_config(
        {
            "stream": {"source": "folder", "path": str(root), "classes_per_task": 2, "order": "random"},
            "method": {"name": method, "options": options},
            "train": {"device": "cpu", **train},
        }
    )


def learned(folder: Path, method: str, options: dict) -> tuple[Learner, list]:
    """Learn the stream; return the learner and the tasks."""
    config = make_config(folder, method, options)
    tasks = make_stream(config).tasks
    out = Learner(ToyEncoder(), method, options=options, device="cpu")
    for task in tasks:
        out.learn(task)
    return out, tasks


def check_learning(learner: Learner, tasks: list, last: float, setting: str = "agnostic") -> None:
    """Mean accuracy after the last task above ``last`` per cent; chance is 8.3 (twelve classes)."""
    accuracy = learner.evaluate(tasks, setting=setting).mean(setting)
    assert accuracy > last, f"{accuracy:.1f} per cent"


def check_predictions_by_instance(learner: Learner, tasks: list) -> None:
    """The scores of a sample don't depend on what else is asked."""
    for task in tasks[-3:]:
        tokens = learner.tokens(task.test, "test")
        for given in (False, True):
            all_at_once = learner.method.scores(tokens, task.modality, learner.classes, given=given)
            assert all_at_once.shape == (len(task.test), len(learner.classes))
            for i in range(len(task.test)):
                alone = learner.method.scores(tokens[torch.tensor([i])], task.modality, learner.classes, given=given)
                torch.testing.assert_close(alone[0], all_at_once[i], rtol=1e-5, atol=1e-5)


def check_state(learner: Learner, tasks: list, folder: Path) -> None:
    """Saved and loaded, it gives the same scores bit for bit, and learns on to the same state."""
    learner.save(folder / "saved")
    again = Learner.load(folder / "saved", encoder=ToyEncoder(), device="cpu")
    for given in (False, True):
        for task in tasks:
            tokens = learner.tokens(task.test, "test")
            scores = [x.method.scores(tokens, task.modality, x.classes, given=given) for x in (learner, again)]
            assert torch.equal(*scores)
    for x in (learner, again):
        x.learn(tasks[0])
    states = [x.method.state() for x in (learner, again)]
    assert states[0][1] == states[1][1] and states[0][0].keys() == states[1][0].keys()
    assert all(torch.equal(states[0][0][k], states[1][0][k]) for k in states[0][0])


def check_resume(folder: Path, method: str, options: dict, stops: tuple[int, ...]) -> set[str]:
    """A run stopped after the given numbers of steps goes on, each time, to the state of a run in one go. Returns the
    names of its loops."""
    assert not method_class(method).needs_all_tasks
    config = make_config(folder, method, options, checkpoint_every=2, evaluate_unseen=False)
    real = task_checkpoints.TaskCheckpoints.step
    loops: list[str] = []
    left: list[int] = []

    def step(self, loop, state):
        loops.append(loop)
        if left and len(loops) == left[0]:
            raise KeyboardInterrupt
        return real(self, loop, state)

    with toy_encoder(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_checkpoints.TaskCheckpoints, "step", step)
        runs.learn_stream(config, folder / "uninterrupted")
        names = set(loops)
        for n, stop in enumerate(stops):
            assert stop < len(loops) or n, f"only {len(loops)} steps"
            del loops[:]
            left[:] = [stop]
            with pytest.raises(KeyboardInterrupt):
                runs.learn_stream(config, folder / "resumed", resume=n > 0)
        left.clear()
        runs.learn_stream(config, folder / "resumed", resume=True)
    tensors = [checkpoint.read(folder / name / "checkpoints" / "task-006")[0] for name in ("uninterrupted", "resumed")]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][k], tensors[1][k]) for k in tensors[0])
    summaries = [
        json.loads((folder / name / "summary.json").read_text())["settings"] for name in ("uninterrupted", "resumed")
    ]
    assert summaries[0] == summaries[1]
    return names
