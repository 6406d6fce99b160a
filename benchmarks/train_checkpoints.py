"""The cost of checkpoints inside a task: ``python -m benchmarks.train_checkpoints SETTINGS``, JSON in, JSON out.

A new learner learns the first two tasks of a stream from cached trunk tokens, with checkpoints and without, again and
again. The two runs of a pair follow each other, so that what slows the machine slows both.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.train_data import make_stream
from mmcl_fast.config.schema import TrainSection
from mmcl_fast.encoders import Encoder, load_encoder
from mmcl_fast.errors import EncoderError
from mmcl_fast.learning import Learner, checkpoint
from mmcl_fast.methods.shared.training_steps import State
from mmcl_fast.runs.task_checkpoints import TaskCheckpoints
from mmcl_fast.streams import Stream

EVERY = TrainSection.model_fields["checkpoint_every"].default
PAIRS = 5
COLUMNS = [
    "encoder",
    "steps between checkpoints inside a task",
    "checkpoints",
    "MB each",
    "two tasks without, s",
    "with, s",
    "they cost",
    "their own time, % of a task",
]


class TimedCheckpoints(TaskCheckpoints):
    """Task checkpoints that count the seconds for which they hold the training loops up."""

    seconds = 0.0

    def step(self, loop: str, state: Callable[[], State]) -> None:
        begun = time.perf_counter()
        super().step(loop, state)
        self.seconds += time.perf_counter() - begun


def measure(encoder: Encoder, stream: Stream, options: dict, folder: Path, every: int, pairs: int = PAIRS) -> dict:
    """Measure pairs of runs without and with checkpoints.

    Args:
        every: number of steps between checkpoints.
        pairs: number of pairs that count; one more comes first, to fill caches.

    Returns:
        "pairs": seconds [without, with] of each pair; "writing": seconds of writing in each pair; "checkpoints": their
        number in a run; "bytes": of one checkpoint; "every".
    """
    tasks = stream.tasks[:2]
    measured, writing, count, size = [], [], 0, 0
    for number in range(pairs + 1):
        pair = []
        for with_checkpoints in (False, True) if number % 2 else (True, False):
            with tempfile.TemporaryDirectory(dir=folder) as run:
                learner = Learner(
                    encoder, "comm", options=options, device=str(encoder.device), cache_dir=folder / "cache"
                )
                checkpoints = TimedCheckpoints(Path(run), every=every)
                if with_checkpoints:
                    learner.checkpoints, count = checkpoints, 0
                spent = 0.0
                for index, task in enumerate(tasks, 1):
                    checkpoints.start(index)
                    seconds = learner.learn(task)
                    spent += sum(seconds.values()) - seconds["decode and trunk"]
                    inside = checkpoint.find_step_checkpoints(Path(run), index)
                    if inside:
                        count += inside[-1][0]
                        size = sum(f.stat().st_size for f in inside[-1][1].iterdir())
                    checkpoints.clear(index)
                pair.append((with_checkpoints, spent))
                writing += [checkpoints.seconds] if with_checkpoints else []
        measured.append([spent for _, spent in sorted(pair)])
    del measured[0], writing[0]
    return {"every": every, "checkpoints": count, "bytes": size, "pairs": measured, "writing": writing}


def table(results: Sequence[dict]) -> list[list[str]]:
    """Return a row of cells for each result, columns as in ``COLUMNS``.

    The cost is the median over the pairs, with the least and the most.
    """
    rows = []
    for result in results:
        if "why" in result:
            rows.append([result["encoder"], f"({result['why']})", *[""] * (len(COLUMNS) - 2)])
            continue
        cost = [100 * (kept / bare - 1) for bare, kept in result["pairs"]]
        own = [100 * writing / kept for writing, (_, kept) in zip(result["writing"], result["pairs"])]
        medians = [f"{statistics.median(column):.2f}" for column in zip(*result["pairs"])]
        rows.append(
            [
                result["encoder"],
                str(result["every"]),
                str(result["checkpoints"]),
                f"{result['bytes'] / 1e6:.2f}",
                *medians,
                f"{statistics.median(cost):.1f} % ({min(cost):.1f} to {max(cost):.1f})",
                f"{statistics.median(own):.1f}",
            ]
        )
    return rows


def main() -> None:
    settings = json.loads(sys.argv[1])
    try:
        encoder = load_encoder(settings["encoder"], device=settings["device"])
        stream = make_stream(settings["data"], settings["classes_per_task"], 0)
        with tempfile.TemporaryDirectory() as folder:
            out = measure(encoder, stream, settings["options"], Path(folder), settings["every"])
    except EncoderError as error:
        out = {"why": str(error)}
    print(json.dumps(out))


if __name__ == "__main__":
    main()
