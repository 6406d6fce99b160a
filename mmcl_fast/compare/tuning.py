"""Choose the options of methods on validation samples, with the same number of trials for every row."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmcl_fast import atomic_files
from mmcl_fast.compare.cell import Cell
from mmcl_fast.compare.sweep import learn_variants, load_base
from mmcl_fast.compare.trials import Search, plan_search
from mmcl_fast.compare.tuned_options import TUNED, config_to_compare, describe_edges, read_tuned, row_key
from mmcl_fast.compare.variants import parse_methods, parse_seeds
from mmcl_fast.config import Config
from mmcl_fast.errors import ConfigError
from mmcl_fast.option_fields import toml
from mmcl_fast.progress import Display, DisplayChoice, Silent, choose_display
from mmcl_fast.report.read_run import read_run
from mmcl_fast.runs.make_stream import make_stream

CRITERION = "last, agnostic, on validation samples, mean over seeds, in %"
MAX_TRIALS = 1000
DIGITS = 6  # accuracies that agree in as many decimals are equal


def tune(
    config: Config | str | Path,
    methods: str | Sequence[str],
    trials: int = 16,
    seeds: str | Iterable[int] = "0",
    out: Path | str = "runs/tune",
    *,
    jobs: int = 1,
    overrides: Sequence[str] = (),
    progress: DisplayChoice = "auto",
) -> dict[str, Any]:
    """Choose the options of methods on the validation samples of a stream, and write tuned.json and tuned.md.

    Each row has the same number of trials. The first trial has the row's own options. The others are points of a
    scrambled Halton sequence over the row's search space, which ``mmcl-fast options METHOD`` shows. Options that a row
    gives itself, as ``ranpac:features=z`` does, are not searched. A row that has nothing to search has one trial.

    The best trial has the greatest ``last`` without the modality given, as a mean over the seeds. Among equal ones the
    earliest is chosen. No test sample is read. Each trial is a run folder ``out/<row>/trial-<k>/seed-<n>`` without
    checkpoints. The same call resumes a search that was stopped. A call with more trials takes the finished ones as
    they are. The file tuned.json keeps the rows of an earlier call with the same config, seeds and number of trials.

    Args:
        config: as for ``compare``. Its stream has validation samples, or ``stream.validation`` holds some out.
        methods: names of methods with commas between, or a list, as for ``compare``.
        trials: number of trials of each row, from 1.
        seeds: as for ``compare``.
        out: the folder to write.
        jobs, overrides, progress: as for ``compare``.

    Returns:
        The values of tuned.json: ``config``, ``config_digest``, ``seeds``, ``trials``, ``criterion``, ``failed`` and
        ``rows``. Each row has:

        - ``name``, ``title``, ``method``, and ``changes`` of the base config
        - ``space``: option -> what was searched, in words
        - ``trials``: ``options``, ``values`` (seed -> accuracy), ``mean`` and ``folder`` of each
        - ``best``: the number of the best trial, and ``chosen``: its searched options; None if all trials failed
        - ``edges``: the chosen options that lie within 5 % of an end of their range

    Raises:
        ConfigError: a name or a value is wrong, or a task has no validation sample.
        RunError, MediaError, RunStopped: as for ``compare``.

    Example::

        from mmcl_fast.compare import compare, tune

        tune("demo", ["comm", "ridge"], trials=16, out="runs/tuned", overrides=["stream.validation=0.2"])
        compare("demo", ["comm", "ridge"], range(5), "runs/compare", tuned="runs/tuned")
    """
    base, folder, display = load_base(config, overrides), Path(out), choose_display(progress) or Silent()
    if not 1 <= trials <= MAX_TRIALS:
        raise ConfigError(f"--trials {trials}: give a number from 1 to {MAX_TRIALS}")
    rows, numbers = parse_methods(methods, base), parse_seeds(seeds)
    _require_validation(base)
    tried = base.model_copy(
        update={
            "stream": base.stream.model_copy(update={"test_on": "val"}),
            "train": base.train.model_copy(update={"evaluate": "agnostic", "evaluate_unseen": False}),
        }
    )
    searches = [plan_search(row, tried, trials, numbers[0]) for row in rows]
    variants = [variant for search in searches for variant in search.trials]

    def write(cells: Sequence[Cell], faults: dict[str, str]) -> dict[str, Any]:
        found: dict[str, Any] = {
            "config_digest": hashlib.sha256(json.dumps(config_to_compare(base)).encode()).hexdigest(),
            "seeds": numbers,
            "trials": trials,
            "criterion": CRITERION,
            "rows": [_summarize(search, cells, faults) for search in searches],
            "failed": faults,
            "config": config_to_compare(base),
        }
        found["rows"] += _earlier_rows(folder, found, display)
        atomic_files.write_json(folder / TUNED, found)
        atomic_files.replace_file(folder / "tuned.md", write_tuned(found).encode())
        return found

    return learn_variants(tried, variants, numbers, folder, jobs, display, write, _remove_checkpoints)


def write_tuned(tuned: dict[str, Any]) -> str:
    """Return the values of tuned.json as Markdown: a row's best trial, its options, and which lie at an edge."""
    seeds = ", ".join(map(str, tuned["seeds"]))
    lines = [
        f"**Options chosen by: {tuned['criterion']}. Seeds {seeds}.**",
        "",
        "| | trials | first trial | best trial | chosen options |",
        "|---|---:|---:|---:|---|",
    ]
    notes = []
    for row in tuned["rows"]:
        first, best = row["trials"][0]["mean"], row["best"]
        cells = [row["title"], str(len(row["trials"])), "–" if first is None else f"{first:.1f}"]
        if best is None:
            cells += ["–", "all trials failed"]
        else:
            chosen = ", ".join(f"{name} = {toml(value)}" for name, value in row["chosen"].items())
            cells += [f"{row['trials'][best]['mean']:.1f}", chosen or "nothing to search"]
        lines.append(f"| {' | '.join(cells)} |")
        notes += [f"- {row['title']}: {text}; a wider space may hold better ones" for text in describe_edges(row)]
    notes += [f"- failed: {name}: {fault}" for name, fault in tuned["failed"].items()]
    return "\n".join(["\n".join(lines), *(["", *notes] if notes else [])]) + "\n"


def _require_validation(base: Config) -> None:
    """Raise ConfigError if a task of the stream has no validation sample."""
    stream = base.stream.model_copy(update={"test_on": "test", "check": False})
    for task in make_stream(base.model_copy(update={"stream": stream})):
        if not task.val:
            raise ConfigError(
                f"stream.validation = {base.stream.validation}: task {task.name} has no validation sample to choose "
                "options on; hold out a share of the training samples with --set stream.validation=0.2"
            )


def _summarize(search: Search, cells: Sequence[Cell], faults: dict[str, str]) -> dict[str, Any]:
    """Return a row of tuned.json."""
    trials: list[dict[str, Any]] = []
    for variant, options in zip(search.trials, search.options):
        own = [cell for cell in cells if cell.variant.folder == variant.folder]
        values = {str(cell.seed): _value(cell) for cell in own if cell.name not in faults}
        mean = sum(values.values()) / len(values) if len(values) == len(own) else None
        trials.append({"options": options, "values": values, "mean": mean, "folder": variant.folder})
    done = [number for number, trial in enumerate(trials) if trial["mean"] is not None]
    best = max(done, key=lambda number: round(trials[number]["mean"], DIGITS)) if done else None  # the first of equals
    chosen = None if best is None else trials[best]["options"]
    used = search.with_effect(chosen or {})
    return {
        "name": search.row.name,
        "title": search.row.title,
        "method": search.row.method,
        "changes": row_key(search.row),
        "chosen": chosen,
        "best": best,
        "edges": [name for name in used if chosen and search.space[name].at_edge(chosen[name])],
        "space": {name: found.words for name, found in search.space.items()},
        "trials": trials,
    }


def _value(cell: Cell) -> float:
    return float(read_run(cell.folder)["settings"]["agnostic"]["metrics"]["last"])


def _remove_checkpoints(cell: Cell) -> None:
    """Remove the checkpoints of a finished trial: nothing reads them, and many trials would fill the disk."""
    shutil.rmtree(cell.folder / "checkpoints", ignore_errors=True)


def _earlier_rows(folder: Path, found: dict[str, Any], display: Display) -> list[dict[str, Any]]:
    """Return the rows of an earlier tuned.json in the folder that this search has not."""
    if not (folder / TUNED).is_file():
        return []
    earlier = read_tuned(folder)
    changes = [row["changes"] for row in found["rows"]]
    rows = [row for row in earlier["rows"] if row["changes"] not in changes]
    same = all(earlier.get(key) == found[key] for key in ("config_digest", "seeds", "trials"))
    if rows and not same:
        names = ", ".join(row["name"] for row in rows)
        display.log(f"{folder / TUNED}: without {names}: tuned before with another config, other seeds or trials")
    return rows if same else []
