"""A whole run: a stream learned task after task, with its folder of truth."""

from __future__ import annotations

import json
import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmcl_fast.errors import ConfigError, RunError
from mmcl_fast.learning import checkpoint, metrics
from mmcl_fast.learning.evaluation import settings_of
from mmcl_fast.learning.learner import Learner
from mmcl_fast.streams import broken
from mmcl_fast.streams.stream import Stream

if TYPE_CHECKING:
    from mmcl_fast.config import Config

SKIPPED = "skipped.jsonl"  # of a run folder: the samples that its stream is without


@dataclass
class Result:
    """What a run came to: its summary (as in summary.json) and the learner."""

    summary: dict[str, Any]
    learner: Learner


def make_stream(config: "Config", run: Path | None = None) -> Stream:
    """The stream that the section [stream] describes; with the folder of a run, without what that run skipped."""
    stream = _described(config)
    if run is None or not (run / SKIPPED).is_file():
        return stream
    return broken.without(stream, broken.read(run / SKIPPED))


def _described(config: "Config") -> Stream:
    s = config.stream
    options = {"classes_per_task": s.classes_per_task, "order": s.order, "seed": s.seed,
               "shuffle_classes": s.shuffle_classes, "shared_classes": s.shared_classes, "validation": s.validation,
               "check": s.check and s.on_broken == "error"}  # check.skip compares what is left
    if s.source == "demo":
        return Stream.demo(s.path, **options)
    if s.path is None:
        raise ConfigError(f"stream.path: missing; source = {s.source!r} needs the path of its {s.source}")
    return (Stream.from_folder if s.source == "folder" else Stream.from_manifest)(s.path, **options)


def train(config: "Config", out: Path, *, resume: bool = False, progress: Any = None,
          stream: Stream | None = None) -> Result:
    """Learn the configured stream into the run folder ``out``.

    The folder holds config.json, environment.json, metrics.jsonl, a checkpoint after each task and summary.json.
    With ``resume`` it goes on after the last finished task. ``stream``: the configured one, where it is built already.

    Raises:
        UserError: bad input, before anything is learned.
    """
    stream = stream or make_stream(config, out if resume else None)
    done, settings = examine(config, out, stream, resume)
    torch.manual_seed(config.train.seed)
    learner = Learner(config.encoder.name, config.method.name, options=config.method.options, seed=config.train.seed,
                      device=config.train.device, cache_dir=config.train.cache, cache_gb=config.train.cache_gb,
                      views=config.encoder.views,
                      prompt_blocks=config.encoder.prompt_blocks, workers=config.train.workers, progress=progress)
    if done is not None:
        tensors, values = checkpoint.read(done)
        if values["fingerprint"] != learner.encoder.fingerprint:
            raise RunError(f"{done}: learned with other encoder weights; give the original ones or start a new run")
        learner.restore(tensors, values)
    begin(out, settings, stream)
    log = MetricsLog(out / "metrics.jsonl")
    log.keep(len(learner.tasks))
    whole = learner.method.cumulative
    started = time.perf_counter()
    for task in [None, *stream.tasks]:
        number = 0 if task is None else task.index + 1
        if task is None and done is not None or 0 < number <= len(learner.tasks):
            continue
        seconds: dict[str, float] = {}
        if task is not None:
            seconds = learner.learn(task)
        if not whole or number in (0, len(stream)):
            before = time.perf_counter()
            _evaluate(learner, stream, number, config, log)
            seconds["evaluation"] = time.perf_counter() - before
            if whole and task is not None:  # what it learns, it learns when scores are first asked for
                seconds |= learner.method.seconds
                seconds["evaluation"] -= sum(learner.method.seconds.values())
        if task is not None:
            log.write({"event": "task", "task": number, "name": task.name, "modality": task.modality,
                       "seconds": seconds})
            learner.save(out / "checkpoints" / f"task-{number:03d}")
            if progress is not None:
                progress.log(_line(log, number, len(stream), task.name))
        else:
            log.write({"event": "start", "seconds": seconds})
    summary = summarize(log.events, stream, learner, config)
    summary["seconds"]["total of this session"] = time.perf_counter() - started
    log.write({"event": "summary", "metrics": {s: v["metrics"] for s, v in summary["settings"].items()}})
    _write_json(out / "summary.json", summary)
    return Result(summary, learner)


def examine(config: "Config", out: Path, stream: Stream, resume: bool) -> tuple[Path | None, dict[str, Any]]:
    """Check the run folder, writing nothing. Returns the checkpoint to go on from (or None) and what config.json
    is to hold."""
    settings = {**config.model_dump(mode="json"), "stream_fingerprint": stream.fingerprint}
    file = out / "config.json"
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is a file; give --out the name of a folder")
    if out.is_dir() and any(out.iterdir()):
        if not resume:
            raise RunError(f"{out}: is not empty; give --resume to go on with that run, or another --out")
        if not file.is_file():
            raise RunError(f"{file}: missing, so {out} is no run folder; give another --out")
        try:
            old = json.loads(file.read_text())
        except ValueError:
            raise RunError(f"{file}: not readable as JSON; start a new run in another folder") from None
        difference = first_difference(old, settings)
        if difference:
            raise RunError(f"{file}: another config: {difference}; resume with the same config or give another --out")
        return checkpoint.latest(out), settings
    return None, settings


def begin(out: Path, settings: dict[str, Any], stream: Stream) -> None:
    """Make the run folder and write what is fixed from the start."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if stream.skipped:
            broken.write(out / SKIPPED, stream.skipped)
        _write_json(out / "config.json", settings)
        _write_json(out / "environment.json", environment())
    except OSError as fault:
        raise RunError(f"{out}: can't be written ({fault.strerror}); give another --out") from None


def first_difference(old: Any, new: Any, path: str = "") -> str | None:
    """The first key at which two JSON values differ, with both values; None when equal."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            if path == "train." and key in ("workers", "device", "cache", "cache_gb"):
                continue
            found = first_difference(old.get(key), new.get(key), f"{path}{key}.")
            if found:
                return found
        return None
    return None if old == new else f"{path[:-1]} was {json.dumps(old)}, is {json.dumps(new)}"


class MetricsLog:
    """metrics.jsonl: one JSON object a line, appended and flushed."""

    def __init__(self, file: Path):
        self.file = file
        self.events: list[dict[str, Any]] = []

    def keep(self, tasks: int) -> None:
        """Drop what a stopped run wrote after its last finished task."""
        if not self.file.is_file():
            return
        events = []
        for line in self.file.read_text().splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                break  # the line that was being written when the run stopped
            if not isinstance(event, dict) or "event" not in event:
                raise RunError(f"{self.file}: a line is no event of a run; start a new run in another folder")
            if event["event"] != "summary" and event.get("after", event.get("task", 0)) <= tasks:
                events.append(event)
        if not tasks:
            events = []
        self.events = events
        temporary = self.file.with_suffix(".part")
        temporary.write_text("".join(json.dumps(e) + "\n" for e in events))
        temporary.replace(self.file)

    def write(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        with open(self.file, "a") as stream:
            stream.write(json.dumps(event) + "\n")


def _evaluate(learner: Learner, stream: Stream, number: int, config: "Config", log: MetricsLog) -> None:
    unseen = config.train.evaluate_unseen
    tasks = stream.tasks[:number]
    if unseen:  # row 0 whole; later the next task only, which is what forward transfer asks for
        tasks = stream.tasks[: number + 1] if number else stream.tasks
    if not tasks:
        return
    result = learner.evaluate(tasks, setting=config.train.evaluate, upcoming=stream.tasks if unseen else ())
    padding = [None] * (len(stream) - len(tasks))
    for setting in settings_of(config.train.evaluate):
        log.write({"event": "evaluation", "after": number, "setting": setting,
                   "row": result.accuracy(setting) + padding, "correct": result.correct[setting] + padding,
                   "count": result.counts + padding})
    matrix = learner.contribution_matrix()
    if matrix:
        log.write({"event": "contributions", "after": number, "modalities": matrix[0], "matrix": matrix[1]})


def _line(log: MetricsLog, number: int, total: int, name: str) -> str:
    rows = {e["setting"]: e["row"][:number] for e in log.events if e["event"] == "evaluation" and e["after"] == number}
    scores = ", ".join(f"{s} {sum(r) / len(r):.1f} %" for s, r in rows.items() if r and None not in r)
    return f"task {number}/{total} {name} learned; mean over the tasks so far: {scores}" if scores else \
        f"task {number}/{total} {name} learned"


def summarize(events: list[dict[str, Any]], stream: Stream, learner: Learner, config: "Config") -> dict[str, Any]:
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
        "tasks": [{"name": t.name, "modality": t.modality, "classes": list(t.classes), "train": len(t.train),
                   "test": len(t.test)} for t in stream.tasks],
        "settings": settings, "formulas": metrics.FORMULAS,
        "contributions": {k: shares[-1][k] for k in ("modalities", "matrix")} if shares else None,
        "seconds": seconds, **learner.describe(), "notes": notes(config, stream),
    }


def notes(config: "Config", stream: Stream) -> list[str]:
    """What must stand wherever the numbers stand."""
    out = ["R[t,i] is the accuracy in % on task i after task t; row 0 is the model before any task. "
           "Prediction is per instance.",
           "Agnostic: a file is decoded as its kind of media; prompts and gates come from the relevance "
           "function alone."]
    if config.stream.source == "demo":
        out.append("Demo media: the depth maps are rendered from meshes and the videos are authored animation, "
                   "not camera-shot.")
    if stream.skipped:
        out.append(f"{len(stream.skipped)} samples do not decode and were left out; {SKIPPED} in the run folder names "
                   "them.")
    return out


def environment() -> dict[str, Any]:
    """What this run ran on."""
    from importlib.metadata import PackageNotFoundError, version

    packages = {}
    for name in ("mmcl-fast", "torch", "numpy", "av", "pillow", "soundfile", "transformers", "triton"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"python": platform.python_version(), "platform": platform.platform(), "packages": packages,
            "threads": torch.get_num_threads(), "cpu": torch.backends.cpu.get_cpu_capability(),
            "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
            "free_disk_gb": round(shutil.disk_usage(".").free / 1e9, 1)}


def _write_json(file: Path, value: Any) -> None:
    temporary = file.with_name(file.name + ".part")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False))
    temporary.replace(file)
