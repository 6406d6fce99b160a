"""Copies of a run's events for TensorBoard and Weights & Biases, while it goes on; metrics.jsonl stays the record."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from mmcl_fast.errors import ConfigError
from mmcl_fast.runs.metrics_log import MetricsLog

MODULES = {"tensorboard": ("torch.utils.tensorboard", "SummaryWriter"), "wandb": ("wandb", "init")}
Event = Mapping[str, Any]


def require_packages(wanted: Sequence[str]) -> None:
    """Check that the packages of ``train.track`` are installed.

    Raises:
        ConfigError: a package is missing; the message names the extra to install.
    """
    for name in wanted:
        module, needed = MODULES[name]
        try:
            getattr(import_module(module), needed)
        except (ImportError, AttributeError):  # a folder named wandb imports as an empty package
            raise ConfigError(
                f"train.track: {name!r} needs a package: pip install 'mmcl-fast[{name}]', or leave it out"
            ) from None


def scalars(event: Event, tasks: Sequence[str]) -> tuple[int, dict[str, float]]:
    """Return the number of tasks learned at an event, and the event's numbers by name.

    Accuracies are in per cent. "mean so far" is their mean over the tasks learned so far.
    """
    kind, out = event["event"], {}
    if kind == "evaluation":
        row, setting = event["row"], event["setting"]
        out = {f"accuracy {setting}/{name}": value for name, value in zip(tasks, row) if value is not None}
        done = [value for value in row[: event["after"]] if value is not None]
        if done:
            out[f"accuracy {setting}/mean so far"] = sum(done) / len(done)
    elif kind == "contributions":
        out = {
            f"contributions/{row} from {column}": value
            for row, values in zip(event["modalities"], event["matrix"])
            for column, value in zip(event["modalities"], values)
        }
    elif kind in ("start", "task"):
        out = {f"seconds/{phase}": value for phase, value in event["seconds"].items()}
    elif kind == "summary":
        out = {
            f"summary {setting}/{name}": value
            for setting, values in event["metrics"].items()
            for name, value in values.items()
            if isinstance(value, (int, float))
        }
    return event.get("after", event.get("task", len(tasks) if kind == "summary" else 0)), out


class TensorBoard:
    """Event files in ``tensorboard/`` of the run folder, written again from metrics.jsonl at every start."""

    has_earlier_events = False

    def __init__(self, out: Path, settings: Mapping[str, Any]):
        from torch.utils.tensorboard import SummaryWriter

        folder = out / "tensorboard"
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self.writer = SummaryWriter(str(folder))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A run of the project ``mmcl_fast``.

    A resumed run finds it by the file ``wandb/id`` of the run folder. The environment variables WANDB_* choose the
    server and the account, as wandb documents them.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]):
        import wandb

        file = out / "wandb" / "id"
        self.has_earlier_events = file.is_file()
        if not self.has_earlier_events:
            file.parent.mkdir(exist_ok=True)
            file.write_text(secrets.token_hex(8))
        self.run = wandb.init(
            project="mmcl_fast",
            name=out.name,
            id=file.read_text(),
            resume="allow",
            dir=str(out),
            config=dict(settings),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()


TRACKERS: dict[str, type[TensorBoard] | type[WandB]] = {"tensorboard": TensorBoard, "wandb": WandB}


@contextmanager
def follow(
    wanted: Sequence[str],
    out: Path,
    log: MetricsLog,
    tasks: Sequence[str],
    settings: Mapping[str, Any],
    say: Callable[[str], None],
) -> Iterator[None]:
    """Inside, send the log's events to the trackers: the earlier ones first, then each new one.

    A tracker that fails is reported once and left out from then on. The run goes on.

    Args:
        wanted: names of trackers, see ``TRACKERS``.
        out: the run folder.
        log: the run's log.
        tasks: names of the tasks.
        settings: the run's config, for trackers that show it.
        say: takes a line for the user.
    """
    trackers: dict[str, TensorBoard | WandB] = {}

    @contextmanager
    def left_out_on_error(name: str) -> Iterator[None]:
        try:
            yield
        except Exception as fault:  # a package that talks to a server may raise anything
            trackers.pop(name, None)
            say(f"note: {name} is left out from here on ({type(fault).__name__}: {fault}); metrics.jsonl has all")

    def write(events: Sequence[Event]) -> None:
        for name, tracker in list(trackers.items()):
            with left_out_on_error(name):
                _write(tracker, events, tasks)

    for name in wanted:
        with left_out_on_error(name):
            trackers[name] = tracker = TRACKERS[name](out, settings)
            if not tracker.has_earlier_events:
                _write(tracker, log.events, tasks)
    log.listeners.append(write)
    try:
        yield
    finally:
        log.listeners.remove(write)
        for name, tracker in list(trackers.items()):
            with left_out_on_error(name):
                tracker.close()


def _write(tracker: TensorBoard | WandB, events: Sequence[Event], tasks: Sequence[str]) -> None:
    for step, values in (scalars(event, tasks) for event in events):
        if values:
            tracker.write(step, values)
