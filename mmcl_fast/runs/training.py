"""Make a run, and go on with one: check the data, learn it into a run folder, and keep samples for the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmcl_fast import distributed
from mmcl_fast.config import Config, load_config, read_run_config
from mmcl_fast.errors import ConfigError, UserError
from mmcl_fast.progress import ProgressChoice, choose_display
from mmcl_fast.runs import report_samples
from mmcl_fast.runs.kept_test_tokens import keep_test_tokens
from mmcl_fast.runs.make_stream import prepare_stream
from mmcl_fast.runs.task_loop import RunResult, learn_stream


def train(
    config: Config | str | Path,
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    resume: bool = False,
    progress: ProgressChoice = "auto",
) -> RunResult:
    """Learn a stream, task after task, into a run folder, as ``mmcl-fast train`` does.

    If the run is new, every file is decoded first, unless ``stream.check`` is false. The folder then holds config.json,
    environment.json, metrics.jsonl, checkpoints, predictions.json.gz, tasks.json.gz and summary.json. Trunk tokens of
    the test samples, and samples for ``mmcl_fast.report.write(out)``, are there unless ``train.private`` is true.

    Example::

        from mmcl_fast import report, runs

        result = runs.train("demo", "runs/demo", overrides=["method.options.epochs=5"])
        result.summary["settings"]["agnostic"]["metrics"]["last"]  # accuracy in %
        report.write("runs/demo")

    Args:
        config: a config, a TOML file, the name of a config that ships, or a folder of your own files.
        out: the run folder to write.
        overrides: ``KEY=VALUE`` for keys of the config, unless it is given as a ``Config``.
        resume: go on with the run in ``out`` if it has begun; its config must be equal but for keys that may change.
            Without it ``out`` must hold no run.
        progress: a display of ``mmcl_fast.progress``; None shows nothing. ``"auto"``: bars in a terminal or notebook.

    Raises:
        UserError: a wrong config, a broken file, or ``out`` in use. What was learned before is on the disk.
        RunStopped: SIGINT or SIGTERM came, in the main thread. After a first signal all that was learned is on the
            disk; a second one loses the steps since the last checkpoint.
    """
    out, progress = Path(out), choose_display(progress)
    if not isinstance(config, Config):
        config = load_config(config, overrides)
    elif overrides:
        raise ConfigError(f"overrides {list(overrides)}: the config is made already; give them to load_config")
    stream = prepare_stream(config, out, resume=resume, progress=progress)
    result = learn_stream(config, out, resume=resume, progress=progress, stream=stream)
    with distributed.propagate_errors():
        if distributed.is_main_process() and not config.train.private:
            try:
                with distributed.single_process():  # the others wait
                    report_samples.write_report_samples(out, result.learner, result.stream, result.summary)
                    left = keep_test_tokens(out, result.learner, result.stream, config.train.keep_test_gb)
                result.warnings += [left] if left else []
            except UserError as fault:  # the run is complete without them
                result.warnings.append(f"no samples for the report, or no tokens of test samples: {fault}")
    return result


def resume(run: str | Path, *, overrides: Sequence[str] = (), progress: ProgressChoice = "auto") -> RunResult:
    """Go on with a run that was stopped, with its own config.

    A finished run learns nothing more. It gets an event in metrics.jsonl, a new summary.json, and samples for the
    report where they are missing.

    Example::

        result = runs.resume("runs/demo")

    Args:
        run: the run folder.
        overrides: ``KEY=VALUE`` for keys that may change: ``train.workers``, ``train.device`` and others that do not
            change what is learned.
        progress: as in :func:`train`.

    Raises:
        UserError, RunStopped: as for :func:`train`; a key that may not change was changed.
    """
    return train(read_run_config(Path(run), overrides), run, resume=True, progress=progress)
