"""A whole run: a stream learned task after task, with its folder of truth."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmcl_fast import atomic_files as files
from mmcl_fast import distributed
from mmcl_fast.errors import ConfigError, RunError
from mmcl_fast.learning import checkpoint
from mmcl_fast.learning.evaluation import settings_of
from mmcl_fast.learning.learner import Learner
from mmcl_fast.methods import make_options, option_values, upgrade_options
from mmcl_fast.methods.shared.training_steps import NoCheckpoints
from mmcl_fast.runs import tracking
from mmcl_fast.runs.folder import SKIPPED, begin, compared, examine, first_difference, holds_run
from mmcl_fast.runs.make_stream import make_stream
from mmcl_fast.runs.metrics_log import MetricsLog
from mmcl_fast.runs.summary import notes, summarize
from mmcl_fast.runs.task_checkpoints import TaskCheckpoints
from mmcl_fast.streams.stream import Stream

if TYPE_CHECKING:
    from mmcl_fast.config import Config

__all__ = ["SKIPPED", "Result", "examine", "holds_run", "make_stream", "notes", "train"]

CONFUSIONS = 5  # of a class that the last row names


@dataclass
class Result:
    """What a run came to: its summary (as in summary.json), the learner, and the stream that it learned."""

    summary: dict[str, Any]
    learner: Learner
    stream: Stream


def train(
    config: Config, out: Path, *, resume: bool = False, progress: Any = None, stream: Stream | None = None
) -> Result:
    """Learn the configured stream into the run folder ``out``.

    The folder holds config.json, environment.json, metrics.jsonl, checkpoints and summary.json. With ``resume`` it
    goes on from the newest readable checkpoint, inside a task too, and comes to the bits that it would have come to
    without the stop (on the same machine, with as many threads; on a GPU with train.deterministic).
    ``stream``: the configured one, where it is built already. Several processes (``mmcl_fast.distributed``) learn it together; the
    first one writes, all read.

    Raises:
        UserError: bad input; what was learned before is on the disk.
        Stop: SIGINT or SIGTERM came, in the main thread; so is all that was learned.
    """
    with distributed.propagate_errors():
        tracking.require(config.train.track)
        stream = stream or make_stream(config, out if resume else None)
        settings = examine(config, out, stream, resume)
    say = progress.log if progress is not None and distributed.is_main_process() else lambda line: None
    torch.manual_seed(config.train.seed)
    with ExitStack() as held, _deterministic(config.train.deterministic):
        cache = held.enter_context(_cache_folder(config))
        with distributed.propagate_errors():
            learner = Learner(
                config.encoder.name,
                config.method.name,
                options=config.method.options,
                seed=config.train.seed,
                device=distributed.local_device(config.train.device),
                cache_dir=cache,
                cache_gb=config.train.cache_gb,
                views=config.encoder.views,
                prompt_blocks=config.encoder.prompt_blocks,
                precision=config.encoder.precision,
                workers=config.train.workers,
                media=config.media.model_dump(),
                progress=progress,
            )
        with distributed.propagate_errors():
            if distributed.is_main_process():
                held.enter_context(files.locked(out))
                examine(config, out, stream, resume)  # again: until now another process could have begun here
                checkpoint.remove_temporary_folders(out)
        with distributed.propagate_errors():
            log = MetricsLog(out / "metrics.jsonl")
            seconds, counts = _go_on(out, learner, len(stream), log, say)
        distributed.require_same(
            {
                "the stream": stream.fingerprint,
                "the encoder": learner.encoder.fingerprint,
                "torch": torch.__version__,
                "the number of tasks learned": len(learner.tasks),
            }
        )
        with distributed.propagate_errors():
            if distributed.is_main_process():
                begin(out, settings, stream)
            if distributed.is_main_process() and log.rows:
                log.write({"event": "resume", "after": len(learner.tasks), "environment": compared(out, say)})
            if distributed.is_main_process():
                names = [task.name for task in stream.tasks]
                held.enter_context(tracking.shown(config.train.track, out, log, names, settings, say))
        checkpoints = learner.checkpoints = TaskCheckpoints(out, every=config.train.checkpoint_every, say=say)
        checkpoints.clear(len(learner.tasks))
        with checkpoints.signals():
            started = time.perf_counter()
            _learn(stream, learner, checkpoints, config, out, log, seconds, counts, progress)
            summary = summarize(log.events, stream, learner, config)
            summary["seconds"]["total of this session"] = time.perf_counter() - started
            with distributed.propagate_errors():
                if not any(event["event"] == "summary" for event in log.events):
                    log.write(
                        {"event": "summary", "metrics": {s: v["metrics"] for s, v in summary["settings"].items()}}
                    )
                if distributed.is_main_process():
                    files.write_json(out / "summary.json", summary)
        learner.checkpoints = NoCheckpoints()  # what it learns from here on is not this run's
    return Result(summary, learner, stream)


def _learn(
    stream: Stream,
    learner: Learner,
    checkpoints: TaskCheckpoints,
    config: Config,
    out: Path,
    log: MetricsLog,
    seconds: dict[str, float],
    counts: dict[str, int],
    progress: Any,
) -> None:
    """The tasks that are not learned yet, and the rows that are not in the log yet. ``seconds``: what learning the
    newest task took, ``counts``: of how many samples and steps, if its row is not there."""
    total, whole = len(stream), learner.method.cumulative
    for number in range(len(learner.tasks), total + 1):
        if number > len(learner.tasks):
            checkpoints.start(total if whole else number)  # all that a cumulative method trains, it trains at the end
            seconds = learner.learn(stream.tasks[number - 1])
            if whole and number == total:
                seconds |= learner.finish()
            counts = {"decode and trunk": len(stream.tasks[number - 1].train) * learner.views, **checkpoints.counts}
            if not whole or number == total:
                before = time.perf_counter()
                with checkpoints.finishing(), distributed.propagate_errors():
                    if distributed.is_main_process():
                        tensors, values = learner.contents()
                        checkpoint.write(
                            out / "checkpoints" / f"task-{number:03d}",
                            tensors,
                            values | {"seconds": seconds, "counts": counts},
                        )
                        checkpoints.clear(number)
                        if config.train.keep_checkpoints != "all":
                            for _, old in checkpoint.find_task_checkpoints(out)[: -config.train.keep_checkpoints]:
                                checkpoint.remove(old)
                seconds = {**seconds, "checkpoint": time.perf_counter() - before}
        if number in log.rows:
            continue
        before = time.perf_counter()
        events = list(_evaluate(learner, stream, number, config)) if not whole or number in (0, total) else []
        seconds = {**seconds, "evaluation": time.perf_counter() - before}
        counts["evaluation"] = sum(n for n in events[0]["count"] if n is not None) if events else 0
        spent = {"seconds": seconds, "counts": counts}
        if number:
            task = stream.tasks[number - 1]
            events.append({"event": "task", "task": number, "name": task.name, "modality": task.modality, **spent})
        else:
            events.append({"event": "start", **spent})
        with checkpoints.finishing(), distributed.propagate_errors():
            log.write(*events)
        if number and progress is not None and distributed.is_main_process():
            progress.log(_line(log, number, total, task.name))


def _go_on(
    out: Path, learner: Learner, total: int, log: MetricsLog, say: Any
) -> tuple[dict[str, float], dict[str, int]]:
    """Bring learner and log to where the run stopped. Returns the seconds that its newest task took, and the counts of
    samples and steps that they are of."""
    broken: list[str] = []
    done = checkpoint.find_latest(out, broken)
    for line in broken:
        say(f"passed over: {line}")
    seconds, counts = {}, {}
    if done is not None:
        tensors, values = checkpoint.read(done)
        here = {"fingerprint": learner.encoder.fingerprint, **learner.settings}
        options = make_options(values["method"], upgrade_options(values["method"], values["options"]))
        values["options"] = option_values(options)
        difference = first_difference({key: values.get(key) for key in here}, here)
        if difference:
            raise RunError(
                f"{done}: learned otherwise: {difference}; give the original encoder and config, or start a new run"
            )
        learner.restore(tensors, values, done)
        set_random_states(tensors)
        seconds, counts = values.get("seconds", {}), values.get("counts", {})
    log.keep(total if learner.method.cumulative else len(learner.tasks))
    log.require(len(learner.tasks))
    return seconds, counts


@contextmanager
def _cache_folder(config: Config) -> Iterator[str | None]:
    """train.cache; for several processes and "none" a temporary folder that they share."""
    if config.train.cache is not None or distributed.world_size() == 1:
        yield config.train.cache
        return
    if distributed.is_multi_node():
        raise ConfigError(
            'train.cache = "none": processes on several machines need a folder for trunk tokens; name '
            "one that all of them reach"
        )
    with (
        tempfile.TemporaryDirectory(prefix="mmcl_fast-cache-")
        if distributed.is_main_process()
        else nullcontext() as own
    ):
        yield distributed.broadcast_object(own)


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Torch's deterministic mode, which matters on a GPU only."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def _evaluate(learner: Learner, stream: Stream, number: int, config: Config) -> Iterator[dict[str, Any]]:
    """The events of a row of R."""
    unseen = config.train.evaluate_unseen
    tasks = stream.tasks[:number]
    if unseen:  # row 0 whole; later the next task only, which is what forward transfer asks for
        tasks = stream.tasks[: number + 1] if number else stream.tasks
    if not tasks:
        return
    result = learner.evaluate(tasks, setting=config.train.evaluate, upcoming=stream.tasks if unseen else ())
    padding = [None] * (len(stream) - len(tasks))
    for setting in settings_of(config.train.evaluate):
        event = {
            "event": "evaluation",
            "after": number,
            "setting": setting,
            "row": result.accuracy(setting) + padding,
            "correct": result.correct[setting] + padding,
            "count": result.counts + padding,
            "by_class": result.by_class(setting) + padding,
        }
        yield event if number < len(stream) else {**event, "taken_for": result.top_confusions(setting, CONFUSIONS)}
    matrix = learner.contribution_matrix()
    if matrix:
        yield {"event": "contributions", "after": number, "modalities": matrix[0], "matrix": matrix[1]}


def _line(log: MetricsLog, number: int, total: int, name: str) -> str:
    rows = {e["setting"]: e["row"][:number] for e in log.events if e["event"] == "evaluation" and e["after"] == number}
    scores = ", ".join(f"{s} {sum(r) / len(r):.1f} %" for s, r in rows.items() if r and None not in r)
    return (
        f"task {number}/{total} {name} learned; mean over the tasks so far: {scores}"
        if scores
        else f"task {number}/{total} {name} learned"
    )
