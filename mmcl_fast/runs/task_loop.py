"""The loop of a run: learn task after task into a run folder, evaluate after each, and go on after a stop."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmcl_fast import atomic_files, distributed
from mmcl_fast.errors import ConfigError, RunError
from mmcl_fast.learning import checkpoint
from mmcl_fast.learning.evaluation import Evaluation, settings_of
from mmcl_fast.learning.learner import Learner
from mmcl_fast.learning.predictions import predictions_of
from mmcl_fast.learning.random_state import set_random_states
from mmcl_fast.learning.versions import read_record, run_of
from mmcl_fast.methods import make_options, option_values, upgrade_options
from mmcl_fast.methods.shared.training_steps import NoCheckpoints
from mmcl_fast.runs import tracking
from mmcl_fast.runs.folder import check_run_folder, compare_environment, first_difference, write_run_start
from mmcl_fast.runs.kept_test_tokens import restore_test_tokens
from mmcl_fast.runs.make_stream import make_stream
from mmcl_fast.runs.metrics_log import MetricsLog
from mmcl_fast.runs.prediction_file import PREDICTIONS_FILE, write_predictions
from mmcl_fast.runs.summary import summarize
from mmcl_fast.runs.task_checkpoints import TaskCheckpoints
from mmcl_fast.runs.task_file import TASKS_FILE, content_digests, write_tasks
from mmcl_fast.runs.time_left import describe_time_left
from mmcl_fast.runs.unknown_event import unknown_event
from mmcl_fast.streams.stream import Stream

if TYPE_CHECKING:
    from mmcl_fast.config import Config
    from mmcl_fast.progress import Progress

MAX_CONFUSIONS = 5  # wrong classes that the last evaluation names for each class


@dataclass
class RunResult:
    """A finished run.

    Attributes:
        summary: the values of summary.json.
        learner: the learner with everything learned.
        stream: the stream that it learned.
        warnings: what went wrong without ending the run, one line each.
    """

    summary: dict[str, Any]
    learner: Learner
    stream: Stream
    warnings: list[str] = field(default_factory=list)


@dataclass
class _TaskCost:
    """The cost of learning the newest task.

    Attributes:
        seconds: phase -> seconds.
        counts: phase -> samples or steps.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


def learn_stream(
    config: Config, out: Path, *, resume: bool = False, progress: Progress | None = None, stream: Stream | None = None
) -> RunResult:
    """Learn a stream into the run folder ``out``, without a check of its files; ``train`` includes the check.

    The folder holds config.json, environment.json, metrics.jsonl, checkpoints, predictions.json.gz, tasks.json.gz and
    summary.json.
    With ``resume`` the run goes on from the newest readable checkpoint, inside a task too. On the same machine with as
    many threads it comes to the same bits as a run without a stop. On a GPU that needs ``train.deterministic``.

    Several processes (``mmcl_fast.distributed``) learn the stream together. Rank 0 writes and all read.

    Args:
        config: the run's config.
        out: the run folder.
        resume: go on with the run in ``out``; without it ``out`` must hold no run.
        progress: a display of ``mmcl_fast.progress``; None shows nothing.
        stream: the stream of the config where it exists already; None makes it.

    Raises:
        UserError: wrong input, such as a run of another config in ``out``. What was learned before is on the disk.
        RunStopped: SIGINT or SIGTERM came, in the main thread; the class says what is on the disk then.
    """
    with distributed.propagate_errors():
        tracking.require_packages(config.train.track)
        stream = stream or make_stream(config, out if resume else None)
        settings = check_run_folder(config, out, stream, resume)
    main = distributed.is_main_process()
    say = progress.log if progress is not None and main else lambda line: None
    torch.manual_seed(config.train.seed)
    with ExitStack() as stack, _deterministic(config.train.deterministic):
        cache = stack.enter_context(_cache_folder(config))
        with distributed.propagate_errors():
            learner = _make_learner(config, cache, progress)
        with distributed.propagate_errors():
            if main:
                stack.enter_context(atomic_files.lock_folder(out))
                check_run_folder(config, out, stream, resume)  # again: another process could have begun here
                checkpoint.remove_temporary_folders(out)
        with distributed.propagate_errors():
            record = read_record(out)
            learner.aliases = {} if record is None else record.class_aliases  # unless a checkpoint has them
            log = MetricsLog(out / "metrics.jsonl")
            cost = _restore(out, learner, len(stream), log, say)
        distributed.require_same(
            {
                "the stream": stream.fingerprint,
                "the encoder": learner.encoder.fingerprint,
                "torch": torch.__version__,
                "the number of tasks learned": len(learner.tasks),
            }
        )
        with distributed.propagate_errors():
            if main:
                write_run_start(out, settings, stream)
                if log.rows:
                    environment = compare_environment(out, say)
                    log.write({"event": "resume", "after": len(learner.tasks), "environment": environment})
                names = [task.name for task in stream.tasks]
                stack.enter_context(tracking.follow(config.train.track, out, log, names, settings, say))
        checkpoints = TaskCheckpoints(out, every=config.train.checkpoint_every, say=say)
        checkpoints.clear(len(learner.tasks))
        learner.checkpoints = checkpoints
        restore_test_tokens(out, learner.cache, stream)
        with checkpoints.stop_on_signals():
            started = time.perf_counter()
            last = _learn_tasks(stream, learner, checkpoints, config, out, log, cost, say)
            _keep_predictions(out, last, learner, stream, config, checkpoints)
            summary = summarize(log.events, stream, learner, config)
            summary["seconds"]["total of this session"] = time.perf_counter() - started
            with distributed.propagate_errors():
                if not any(event["event"] == "summary" for event in log.events):
                    metrics = {name: setting["metrics"] for name, setting in summary["settings"].items()}
                    log.write({"event": "summary", "metrics": metrics})
                if main:
                    if not (out / TASKS_FILE).exists():
                        digests = content_digests(learner.cache, stream.samples)
                        write_tasks(out / TASKS_FILE, stream, digests, texts=not config.train.private)
                    atomic_files.write_json(out / "summary.json", summary)
        learner.checkpoints, learner.run = NoCheckpoints(), run_of(out)  # this run ends here, the learner may go on
    return RunResult(summary, learner, stream)


def _make_learner(config: Config, cache: str | None, progress: Progress | None) -> Learner:
    return Learner(
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


def _learn_tasks(
    stream: Stream,
    learner: Learner,
    checkpoints: TaskCheckpoints,
    config: Config,
    out: Path,
    log: MetricsLog,
    cost: _TaskCost,
    say: Callable[[str], None],
) -> Evaluation | None:
    """Learn the tasks that are not learned yet, and evaluate after each task whose row is not in the log yet.

    A method that needs all tasks trains after the last one. It gets one checkpoint and one row there.

    The arguments are the parts of the run in ``out``.

    Args:
        cost: the cost of the newest task that is learned but not in the log.
        say: shows a line to the user.

    Returns:
        The evaluation after the last task, unless its row was in the log already.
    """
    result: Evaluation | None = None
    total, needs_all_tasks = len(stream), learner.method.needs_all_tasks

    def time_left(learned: int) -> str:
        # A method that needs all tasks learns after the last one, so the tasks before say nothing about it.
        return "" if needs_all_tasks else describe_time_left(log.events, stream.tasks[learned:], learner.views)

    if left := time_left(len(learner.tasks)):
        say(left)
    for number in range(len(learner.tasks), total + 1):
        trains_here = not needs_all_tasks or number == total
        if number > len(learner.tasks):
            checkpoints.start(total if needs_all_tasks else number)
            task = stream.tasks[number - 1]
            cost = _TaskCost(learner.learn(task))
            if needs_all_tasks and number == total:
                cost.seconds |= learner.finish()
            cost.counts = {"decode and trunk": len(task.train) * learner.views, **checkpoints.counts}
            if number == total:
                before = time.perf_counter()
                learner.calibrate(stream.tasks)
                cost.seconds["calibration"] = time.perf_counter() - before
            if trains_here:
                before = time.perf_counter()
                _write_checkpoint(out, learner, checkpoints, number, cost, config.train.keep_checkpoints)
                cost.seconds["checkpoint"] = time.perf_counter() - before
        if number in log.rows:
            continue
        before = time.perf_counter()
        result = _evaluate(learner, stream, number, config) if trains_here or number == 0 else None
        events = [] if result is None else list(_evaluation_events(result, learner, stream, number, config))
        cost.seconds["evaluation"] = time.perf_counter() - before
        cost.counts["evaluation"] = sum(n for n in events[0]["count"] if n is not None) if events else 0
        costs = {"seconds": cost.seconds, "counts": cost.counts}
        if number:
            task = stream.tasks[number - 1]
            events.append({"event": "task", "task": number, "name": task.name, "modality": task.modality, **costs})
        else:
            events.append({"event": "start", **costs})
        with checkpoints.finishing(), distributed.propagate_errors():
            log.write(*events)
        if number:
            say("; ".join(filter(None, [_task_line(log, number, total, task.name), time_left(number)])))
    return result


def _keep_predictions(
    out: Path, last: Evaluation | None, learner: Learner, stream: Stream, config: Config, checkpoints: TaskCheckpoints
) -> None:
    """Write the predictions after the last task; evaluate again where an earlier session ended before it wrote them.

    ``last`` is the evaluation after the last task, if this session made it.
    """
    if last is None and distributed.broadcast_object((out / PREDICTIONS_FILE).is_file()):
        return
    result = _evaluate(learner, stream, len(stream), config) if last is None else last
    with checkpoints.finishing(), distributed.propagate_errors():
        if result is not None and distributed.is_main_process():
            write_predictions(out / PREDICTIONS_FILE, predictions_of(result))


def _write_checkpoint(
    out: Path, learner: Learner, checkpoints: TaskCheckpoints, number: int, cost: _TaskCost, keep: int | str
) -> None:
    """Write the checkpoint of a task's end; remove the ones inside the task, and older ones beyond ``keep``."""
    with checkpoints.finishing(), distributed.propagate_errors():
        if not distributed.is_main_process():
            return
        tensors, values = learner.contents()
        values |= {"seconds": cost.seconds, "counts": cost.counts}
        checkpoint.write(out / "checkpoints" / f"task-{number:03d}", tensors, values)
        checkpoints.clear(number)
        if keep != "all":
            for _, old in checkpoint.find_task_checkpoints(out)[: -int(keep)]:
                checkpoint.remove(old)


def _restore(out: Path, learner: Learner, total: int, log: MetricsLog, say: Callable[[str], None]) -> _TaskCost:
    """Bring the learner and the log to where the run stopped; return the cost of its newest task."""
    broken: list[str] = []
    newest = checkpoint.find_latest(out, broken)
    for line in broken:
        say(f"passed over: {line}")
    cost = _TaskCost()
    if newest is not None:
        tensors, values = checkpoint.read(newest)
        expected = {"fingerprint": learner.encoder.fingerprint, **learner.settings}
        # An older checkpoint lacks the options that were added since: they count as their defaults.
        options = make_options(values["method"], upgrade_options(values["method"], values["options"]))
        values["options"] = option_values(options)
        difference = first_difference({key: values.get(key) for key in expected}, expected)
        if difference:
            raise RunError(
                f"{newest}: learned otherwise: {difference}; give the original encoder and config, or start a new run"
            )
        learner.restore(tensors, values, newest)
        set_random_states(tensors)
        cost = _TaskCost(values.get("seconds", {}), values.get("counts", {}))
    log.load(total if learner.method.needs_all_tasks else len(learner.tasks))
    log.require_rows(len(learner.tasks))
    return cost


@contextmanager
def _cache_folder(config: Config) -> Iterator[str | None]:
    """Give ``train.cache``; several processes without one get a temporary folder that they share.

    Raises:
        ConfigError: several machines, and no folder that all of them reach.
    """
    if config.train.cache is not None or distributed.world_size() == 1:
        yield config.train.cache
        return
    if distributed.is_multi_node():
        raise ConfigError(
            'train.cache = "none": processes on several machines need a folder for trunk tokens; name '
            "one that all of them reach"
        )
    main = distributed.is_main_process()
    with tempfile.TemporaryDirectory(prefix="mmcl_fast-cache-") if main else nullcontext() as folder:
        yield distributed.broadcast_object(folder)


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Inside, use torch's deterministic algorithms if ``wanted``; they differ from the others on a GPU only."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first use
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def _evaluate(learner: Learner, stream: Stream, number: int, config: Config) -> Evaluation | None:
    """Evaluate after ``number`` tasks; None where there is no task to evaluate yet."""
    unseen = config.train.evaluate_unseen
    tasks = stream.tasks[:number]
    if unseen:  # forward transfer needs all of row 0, and later the next task only
        tasks = stream.tasks[: number + 1] if number else stream.tasks
    if not tasks:
        return None
    return learner.evaluate(tasks, setting=config.train.evaluate, upcoming=stream.tasks if unseen else ())


def _evaluation_events(
    result: Evaluation, learner: Learner, stream: Stream, number: int, config: Config
) -> Iterator[dict[str, Any]]:
    """Yield the events of the row of R after ``number`` tasks of the stream."""
    padding = [None] * (len(stream) - len(result.names))
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
        if number == len(stream):
            event["taken_for"] = result.top_confusions(setting, MAX_CONFUSIONS)
        yield event
    matrix = learner.contribution_matrix()
    if matrix:
        yield {"event": "contributions", "after": number, "modalities": matrix[0], "matrix": matrix[1]}
    if 0 < number < len(result.names):  # the next task was tested too
        modality = stream.tasks[number].modality
        known = [s for task, s in zip(stream.tasks[:number], result.unknown) if task.modality == modality]
        unknown = unknown_event(number, modality, known, result, number, learner.classes.ids)
        if unknown is not None:
            yield unknown


def _task_line(log: MetricsLog, number: int, total: int, name: str) -> str:
    """Return the line that tells the user of a task learned."""
    rows = {e["setting"]: e["row"][:number] for e in log.events if e["event"] == "evaluation" and e["after"] == number}
    scores = ", ".join(f"{s} {sum(r) / len(r):.1f} %" for s, r in rows.items() if r and None not in r)
    line = f"task {number}/{total} {name} learned"
    return f"{line}; mean over the tasks so far: {scores}" if scores else line
