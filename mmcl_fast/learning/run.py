"""A whole run: a stream learned task after task, with its folder of truth."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmcl_fast import parallel
from mmcl_fast.config import recorded
from mmcl_fast.errors import ConfigError, RunError
from mmcl_fast.learning import checkpoint, files, metrics, tracking
from mmcl_fast.learning.evaluation import settings_of
from mmcl_fast.learning.journal import Journal, set_generators
from mmcl_fast.learning.learner import Learner
from mmcl_fast.learning.log import MetricsLog
from mmcl_fast.methods import make_options
from mmcl_fast.methods.steps import Unkept
from mmcl_fast.streams import broken, known
from mmcl_fast.streams.sample import Task
from mmcl_fast.streams.stream import Stream

if TYPE_CHECKING:
    from mmcl_fast.config import Config

FREE = (
    "workers",
    "device",
    "cache",
    "cache_gb",
    "checkpoint_every",
    "keep_checkpoints",
    "track",
)  # [train]: may change
COLUMNS = {"folder": ("text", "label", "header"), "table": ("text", "label", "split", "header"), "tar": ("label",)}
CONFUSIONS = 5  # of a class that the last row names
SKIPPED = "skipped.jsonl"  # of a run folder: the samples that its stream is without


@dataclass
class Result:
    """What a run came to: its summary (as in summary.json), the learner, and the stream that it learned."""

    summary: dict[str, Any]
    learner: Learner
    stream: Stream


def make_stream(config: Config, run: Path | None = None) -> Stream:
    """The stream that the section [stream] describes; with the folder of a run, without what that run skipped."""
    stream = _described(config)
    if run is None or not ((run / "config.json").is_file() and (run / SKIPPED).is_file()):
        return stream
    return broken.without(stream, broken.read(run / SKIPPED))


def _described(config: Config) -> Stream:
    s = config.stream
    options = {
        "classes_per_task": s.classes_per_task,
        "order": s.order,
        "seed": s.seed,
        "modalities": s.modalities,
        "late": s.late,
        "share": s.share,
        "shuffle_classes": s.shuffle_classes,
        "shared_classes": s.shared_classes,
        "validation": s.validation,
        "check": s.check and s.on_broken == "error",  # check.skip compares what is left
        "keep_empty": s.on_broken == "skip",
    }
    for name in ("text", "label", "split", "header"):
        if name not in COLUMNS.get(s.source, ()) and getattr(s, name) != type(s).model_fields[name].default:
            raise ConfigError(f"stream.{name}: not read where source = {s.source!r}; remove it")
    if s.source != "known" and s.datasets != type(s.datasets)():
        raise ConfigError(f'stream.datasets: for source = "known", not {s.source!r}; remove it or set the source')
    if isinstance(s.path, dict) and s.source != "tar":
        raise ConfigError(f'stream.path: a table of splits is for source = "tar", not {s.source!r}; give one path')
    if s.source == "demo":
        return Stream.demo(s.path, **options)
    if s.source == "known":
        if s.path is not None:
            raise ConfigError('stream.path: not read where source = "known"; give stream.datasets.<modality>.path')
        return Stream.from_known(known.chosen(s.datasets.model_dump(), config.media.depth_kind), **options)
    if s.path is None:
        raise ConfigError(f"stream.path: missing; source = {s.source!r} needs the path of its {s.source}")
    options |= {name: getattr(s, name) for name in COLUMNS.get(s.source, ())}
    return getattr(Stream, f"from_{s.source}")(s.path, **options)


def train(
    config: Config, out: Path, *, resume: bool = False, progress: Any = None, stream: Stream | None = None
) -> Result:
    """Learn the configured stream into the run folder ``out``.

    The folder holds config.json, environment.json, metrics.jsonl, checkpoints and summary.json. With ``resume`` it
    goes on from the newest readable checkpoint, inside a task too, and comes to the bits that it would have come to
    without the stop (on the same machine, with as many threads; on a GPU with train.deterministic).
    ``stream``: the configured one, where it is built already. Several processes (``parallel``) learn it together; the
    first one writes, all read.

    Raises:
        UserError: bad input; what was learned before is on the disk.
        Stop: SIGINT or SIGTERM came, in the main thread; so is all that was learned.
    """
    with parallel.together():
        tracking.require(config.train.track)
        stream = stream or make_stream(config, out if resume else None)
        settings = examine(config, out, stream, resume)
    say = progress.log if progress is not None and parallel.first() else lambda line: None
    torch.manual_seed(config.train.seed)
    with ExitStack() as held, _deterministic(config.train.deterministic):
        cache = held.enter_context(_cache_folder(config))
        with parallel.together():
            learner = Learner(
                config.encoder.name,
                config.method.name,
                options=config.method.options,
                seed=config.train.seed,
                device=parallel.device(config.train.device),
                cache_dir=cache,
                cache_gb=config.train.cache_gb,
                views=config.encoder.views,
                prompt_blocks=config.encoder.prompt_blocks,
                precision=config.encoder.precision,
                workers=config.train.workers,
                media=config.media.model_dump(),
                progress=progress,
            )
        with parallel.together():
            if parallel.first():
                held.enter_context(files.locked(out))
                examine(config, out, stream, resume)  # again: until now another process could have begun here
                checkpoint.clean(out)
        with parallel.together():
            log = MetricsLog(out / "metrics.jsonl")
            seconds = _go_on(out, learner, len(stream), log, say)
        parallel.require_same(
            {
                "the stream": stream.fingerprint,
                "the encoder": learner.encoder.fingerprint,
                "torch": torch.__version__,
                "the number of tasks learned": len(learner.tasks),
            }
        )
        with parallel.together():
            if parallel.first():
                begin(out, settings, stream)
            if parallel.first() and log.rows:
                log.write({"event": "resume", "after": len(learner.tasks), "environment": _compared(out, say)})
            if parallel.first():
                names = [task.name for task in stream.tasks]
                held.enter_context(tracking.shown(config.train.track, out, log, names, settings, say))
        journal = learner.journal = Journal(out, every=config.train.checkpoint_every, say=say)
        journal.clear(len(learner.tasks))
        with journal.signals():
            started = time.perf_counter()
            _learn(stream, learner, journal, config, out, log, seconds, progress)
            summary = summarize(log.events, stream, learner, config)
            summary["seconds"]["total of this session"] = time.perf_counter() - started
            with parallel.together():
                if not any(event["event"] == "summary" for event in log.events):
                    log.write(
                        {"event": "summary", "metrics": {s: v["metrics"] for s, v in summary["settings"].items()}}
                    )
                if parallel.first():
                    files.write_json(out / "summary.json", summary)
        learner.journal = Unkept()  # what it learns from here on is not this run's
    return Result(summary, learner, stream)


def _learn(
    stream: Stream,
    learner: Learner,
    journal: Journal,
    config: Config,
    out: Path,
    log: MetricsLog,
    seconds: dict[str, float],
    progress: Any,
) -> None:
    """The tasks that are not learned yet, and the rows that are not in the log yet. ``seconds``: what learning the
    newest task took, if its row is not there."""
    total, whole = len(stream), learner.method.cumulative
    for number in range(len(learner.tasks), total + 1):
        counts: dict[str, int] = {}  # samples and steps that the seconds are of
        if number > len(learner.tasks):
            journal.start(total if whole else number)  # all that a cumulative method trains, it trains at the end
            seconds = learner.learn(stream.tasks[number - 1])
            if whole and number == total:
                seconds |= learner.finish()
            counts = {"decode and trunk": len(stream.tasks[number - 1].train) * learner.views, **journal.counts}
            if not whole or number == total:
                before = time.perf_counter()
                with journal.finishing(), parallel.together():
                    if parallel.first():
                        tensors, values = learner.contents()
                        checkpoint.write(
                            out / "checkpoints" / f"task-{number:03d}", tensors, values | {"seconds": seconds}
                        )
                        journal.clear(number)
                        if config.train.keep_checkpoints != "all":
                            for _, old in checkpoint.tasks(out)[: -config.train.keep_checkpoints]:
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
        with journal.finishing(), parallel.together():
            log.write(*events)
        if number and progress is not None and parallel.first():
            progress.log(_line(log, number, total, task.name))


def _go_on(out: Path, learner: Learner, total: int, log: MetricsLog, say: Any) -> dict[str, float]:
    """Bring learner and log to where the run stopped. Returns the seconds that its newest task took."""
    broken: list[str] = []
    done = checkpoint.latest(out, broken)
    for line in broken:
        say(f"passed over: {line}")
    seconds = {}
    if done is not None:
        tensors, values = checkpoint.read(done)
        here = {"fingerprint": learner.encoder.fingerprint, **learner.settings}
        options = make_options(values["method"], values["options"])  # with those added since
        values["options"] = dataclasses.asdict(options)
        difference = first_difference({key: values.get(key) for key in here}, here)
        if difference:
            raise RunError(
                f"{done}: learned otherwise: {difference}; give the original encoder and config, or start a new run"
            )
        learner.restore(tensors, values, done)
        set_generators({k: v for k, v in tensors.items() if k.startswith("generator/")})
        seconds = values.get("seconds", {})
    log.keep(total if learner.method.cumulative else len(learner.tasks))
    log.require(len(learner.tasks))
    return seconds


@contextmanager
def _cache_folder(config: Config) -> Iterator[str | None]:
    """train.cache; for several processes and "none" a temporary folder that they share."""
    if config.train.cache is not None or parallel.world() == 1:
        yield config.train.cache
        return
    if parallel.elsewhere():
        raise ConfigError(
            'train.cache = "none": processes on several machines need a folder for trunk tokens; name '
            "one that all of them reach"
        )
    with tempfile.TemporaryDirectory(prefix="mmcl_fast-cache-") if parallel.first() else nullcontext() as own:
        yield parallel.told(own)


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


def holds_run(out: Path, resume: bool) -> bool:
    """Whether ``out`` holds a run that has begun, and may be gone on with.

    Raises:
        RunError: it holds something else, or a run and ``resume`` is False.
    """
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is a file; give --out the name of a folder")
    try:
        names = {f.name for f in out.iterdir() if not f.name.endswith(".part")} if out.is_dir() else set()
    except OSError as fault:
        raise RunError(f"{out}: can't be read ({fault.strerror}); give another --out") from None
    if names <= {files.LOCK, SKIPPED}:  # all that a run stopped before its config.json leaves
        return False
    if not resume:
        raise RunError(f"{out}: is not empty; give --resume to go on with that run, or another --out")
    if "config.json" not in names:
        raise RunError(f"{out / 'config.json'}: missing, so {out} is no run folder; give another --out")
    return True


def examine(config: Config, out: Path, stream: Stream, resume: bool) -> dict[str, Any]:
    """Check the run folder, writing nothing. Returns what config.json is to hold.

    Raises:
        RunError, ConfigError: it holds a run of another config; a key that its config.json lacks counts as today's
            default.
    """
    settings = {**config.model_dump(mode="json"), "stream_fingerprint": stream.fingerprint}
    if holds_run(out, resume):
        file = out / "config.json"
        difference = first_difference(recorded(out), settings)
        if difference:
            raise RunError(f"{file}: another config: {difference}; resume with the same config or give another --out")
    return settings


def begin(out: Path, settings: dict[str, Any], stream: Stream) -> None:
    """Write what is fixed from the start; what is there stays as it is."""
    if not (out / "config.json").exists():
        if stream.skipped or (out / SKIPPED).exists():  # one of a run stopped before its config.json
            files.replace(out / SKIPPED, broken.to_jsonl(stream.skipped).encode())
        files.write_json(out / "config.json", settings)
    if not (out / "environment.json").exists():
        files.write_json(out / "environment.json", environment())


def _compared(out: Path, say: Any) -> dict[str, Any]:
    """This session's environment; says what of it differs from the first session's."""
    here = environment()
    try:
        first = json.loads((out / "environment.json").read_text())
    except ValueError:
        raise RunError(
            f"{out / 'environment.json'}: not readable as JSON; restore it from a copy, or remove it"
        ) from None
    apart = [k for k in here if k != "free_disk_gb" and isinstance(first, dict) and first.get(k) != here[k]]
    if apart:
        say(
            f"note: another {', '.join(apart)} than when the run began; numbers may differ from those of a run in one "
            "go"
        )
    return here


def first_difference(old: Any, new: Any, path: str = "") -> str | None:
    """The first key at which two JSON values differ, with both values; None when equal."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            if path == "train." and key in FREE:
                continue
            found = first_difference(old.get(key), new.get(key), f"{path}{key}.")
            if found:
                return found
        return None
    return None if old == new else f"{path[:-1]} was {json.dumps(old)}, is {json.dumps(new)}"


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
        yield event if number < len(stream) else {**event, "taken_for": result.taken_for(setting, CONFUSIONS)}
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


def summarize(events: list[dict[str, Any]], stream: Stream, learner: Learner, config: Config) -> dict[str, Any]:
    """summary.json from the events of a finished run."""
    T = len(stream)
    counts = [len(t.test) for t in stream.tasks]
    modalities = [t.modality for t in stream.tasks]
    settings = {}
    for name in settings_of(config.train.evaluate):
        rows = {e["after"]: e["row"] for e in events if e["event"] == "evaluation" and e["setting"] == name}
        R = [rows.get(t, [None] * T) for t in range(T + 1)]
        settings[name] = {"R": R, "metrics": metrics.summarize(R, counts, modalities)}
    seconds: dict[str, float] = {}
    for event in events:
        for phase, value in event.get("seconds", {}).items():
            seconds[phase] = seconds.get(phase, 0.0) + value
    shares = [e for e in events if e["event"] == "contributions"]
    return {
        "tasks": [
            {
                "name": t.name,
                "modality": t.modality,
                "classes": list(t.classes),
                "train": len(t.train),
                "test": len(t.test),
                "test_by_class": _by_class(t),
            }
            for t in stream.tasks
        ],
        "settings": settings,
        "formulas": metrics.FORMULAS,
        "contributions": {k: shares[-1][k] for k in ("modalities", "matrix")} if shares else None,
        "seconds": seconds,
        **learner.describe(),
        "notes": notes(config, stream),
    }


def _by_class(task: Task) -> list[int]:
    """Test samples of each class."""
    found = Counter(sample.label for sample in task.test)
    return [found[name] for name in task.classes]


def notes(config: Config, stream: Stream) -> list[str]:
    """What must stand wherever the numbers stand."""
    out = [
        "R[t,i] is the accuracy in % on task i after task t; row 0 is the model before any task. "
        "Prediction is per instance.",
        "Agnostic: a file is decoded as its kind of media; prompts and gates come from the relevance function alone.",
    ]
    if config.stream.source == "demo":
        out.append(
            "Demo media: the depth maps are rendered from meshes and the videos are authored animation, "
            "not camera-shot."
        )
    if stream.skipped:
        out.append(
            f"{len(stream.skipped)} samples do not decode and were left out; {SKIPPED} in the run folder names them."
        )
    return out


def environment() -> dict[str, Any]:
    """What this run ran on."""
    from importlib.metadata import PackageNotFoundError, version

    packages = {}
    for name in ("mmcl-fast", "torch", "numpy", "av", "pillow", "simplejpeg", "soundfile", "transformers", "triton"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "processes": parallel.world(),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "free_disk_gb": round(shutil.disk_usage(".").free / 1e9, 1),
    }
