"""Compare methods, or ablate COMM: learn every variant with several seeds, and write tables, plots and a report."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mmcl_fast import atomic_files
from mmcl_fast.compare.cell import Cell, check_data, plan_cells
from mmcl_fast.compare.display import SweepDisplay
from mmcl_fast.compare.processes import learn_cells
from mmcl_fast.compare.tuned_options import explain_tuned, read_tuned, use_tuned_options
from mmcl_fast.compare.variants import MethodVariant, keeps_class_groups, parse_methods, parse_seeds, parse_switches
from mmcl_fast.config import Config, load_config
from mmcl_fast.errors import ConfigError, suggest
from mmcl_fast.progress import Display, DisplayChoice, Silent, choose_display
from mmcl_fast.report import tables
from mmcl_fast.report.results import collect
from mmcl_fast.report.sweep_page import render_sweep_page

FILES = ("table.md", "table.csv", "table.tex", "results.json", "report.html")
Written = TypeVar("Written")


def compare(
    config: Config | str | Path,
    methods: str | Sequence[str],
    seeds: str | Iterable[int] = "0..4",
    out: Path | str = "runs/compare",
    *,
    jobs: int = 1,
    reference: str | None = None,
    tuned: Path | str | None = None,
    overrides: Sequence[str] = (),
    progress: DisplayChoice = "auto",
    title: str = "compare",
) -> dict[str, Any]:
    """Learn a stream with several methods and seeds, and write tables, plots and tests of the differences.

    Finished runs in ``out`` are not learned again, so the same call resumes a sweep that was stopped. Call it in the
    main thread: worker processes learn the cells, and this process handles Ctrl-C.

    Args:
        config: a config, or what names one: a folder of files, a TOML file or the name of a shipped config.
        methods: names of methods with commas between, or a list. An option follows its method after a colon:
            ``comm,ridge,ridge:features=z``. ``stream.classes_per_task=none`` learns one task per modality.
        seeds: numbers, or a text such as ``0..4`` or ``0,3,7``. A seed fixes training, the order of the tasks, and
            which classes a task has. The last does not hold if the config itself gives ``stream.shuffle_classes``.
        out: the folder to write: table.md, table.csv, table.tex, results.json, report.html, and a run folder for each
            method and seed.
        jobs: runs learned at once. They share the cores.
        reference: the row that the others are compared with; None: comm if it is there, else the first.
        tuned: a folder that ``tune`` wrote; each row takes the options that ``tune`` chose for it.
        overrides: ``KEY=VALUE`` for keys of the config, unless it is given as a ``Config``.
        progress: a display of ``mmcl_fast.progress``; None shows nothing. ``"auto"``: bars in a terminal or notebook.
        title: the title of report.html.

    Returns:
        The values of results.json; see ``report.results.collect``. ``failed`` names the runs that failed.

    Raises:
        ConfigError: a name, an option or a value is wrong, or ``tuned`` lacks a row.
        RunError: ``out`` holds other runs, or another process uses it.
        MediaError: a file of the stream does not decode.
        RunStopped: SIGINT or SIGTERM came. The same call goes on from there.

    Example::

        from mmcl_fast.compare import compare

        results = compare("demo", ["comm", "ridge", "finetune"], range(5), "runs/compare", jobs=2)
        print(results["rows"][0]["statistics"]["agnostic"]["last"]["mean"])
    """
    base, display = load_base(config, overrides), choose_display(progress) or Silent()
    variants, notes = parse_methods(methods, base), list[str]()
    if tuned is not None:
        found = read_tuned(Path(tuned))
        variants = use_tuned_options(variants, base, found)
        notes = explain_tuned(variants, base, found)
    return _run_sweep(base, variants, parse_seeds(seeds), Path(out), jobs, reference, display, title, notes)


def ablate(
    config: Config | str | Path,
    switches: str | Sequence[str] | None = None,
    seeds: str | Iterable[int] = "0..4",
    out: Path | str = "runs/ablate",
    *,
    jobs: int = 1,
    reference: str | None = None,
    overrides: Sequence[str] = (),
    progress: DisplayChoice = "auto",
    title: str = "ablate",
) -> dict[str, Any]:
    """Learn a stream with COMM and with each of its parts changed, and write what ``compare`` writes.

    Args:
        config: as for ``compare``; its method is comm.
        switches: names of ``SWITCHES``, and changes such as ``rank=8`` or ``drift=false:weighted=false``. None: all
            names.
        seeds, out, jobs, reference, overrides, progress, title: as for ``compare``.

    Returns:
        The values of results.json.

    Raises:
        ConfigError, RunError, MediaError, RunStopped: as for ``compare``.

    Example::

        from mmcl_fast.compare import ablate

        ablate("demo", ["prompts", "blending", "rank=8"], seeds="0..4", out="runs/ablate", jobs=2)
    """
    base, display = load_base(config, overrides), choose_display(progress) or Silent()
    variants, left_out = parse_switches(switches, base)
    for line in left_out:
        display.log(line)
    return _run_sweep(base, variants, parse_seeds(seeds), Path(out), jobs, reference, display, title)


def load_base(config: Config | str | Path, overrides: Sequence[str]) -> Config:
    """Return the config of a sweep.

    Raises:
        ConfigError: it is wrong, or ``overrides`` are given for a config that is made already.
    """
    if not isinstance(config, Config):
        return load_config(config, overrides)
    if overrides:
        raise ConfigError(f"overrides {list(overrides)}: the config is made already; give them to load_config")
    return config


def learn_variants(
    base: Config,
    variants: Sequence[MethodVariant],
    seeds: Sequence[int],
    out: Path,
    jobs: int,
    display: Display,
    write: Callable[[Sequence[Cell], dict[str, str]], Written],
    on_finished: Callable[[Cell], None] = lambda cell: None,
) -> Written:
    """Learn every variant with every seed in run folders below ``out``, and write what was found.

    Args:
        write: called with all cells, and with name -> fault of each failed cell. ``out`` is locked meanwhile.
        on_finished: called with each cell that finishes now.

    Returns:
        What ``write`` returned.

    Raises:
        ConfigError, RunError, MediaError, RunStopped: as for ``compare``.
    """
    if jobs < 1:
        raise ConfigError(f"--jobs {jobs}: give a number from 1")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("torchrun: a sweep starts its own processes; start it without torchrun, with --jobs")
    if len(seeds) > 1 and keeps_class_groups(base) and not base.stream.shuffle_classes:
        display.log("note: stream.shuffle_classes = false in the config, so all seeds have the same classes in a task")
    cells = plan_cells(base, variants, seeds, out)
    finished = sum(cell.finished for cell in cells)
    if finished:
        display.log(f"{finished} of {len(cells)} cells are finished already")
    skipped = check_data(cells, display)  # before anything is learned: a broken file would stop cells midway
    with atomic_files.lock_folder(out) as lock:
        with SweepDisplay(display, len(cells), finished) as shown:
            faults = learn_cells(cells, jobs, shown, skipped=skipped, lock=lock, on_finished=on_finished)
        return write(cells, faults)


def _run_sweep(
    base: Config,
    variants: Sequence[MethodVariant],
    seeds: Sequence[int],
    out: Path,
    jobs: int,
    reference: str | None,
    display: Display,
    title: str,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    titles = {variant.name: variant.title for variant in variants}
    if reference is None:
        reference = "comm" if "comm" in titles else variants[0].name
    elif reference not in (*titles, *titles.values()):
        raise ConfigError(f"--reference {reference}: no such row; {suggest(reference, titles)}")
    chosen = titles.get(reference, reference)
    for line in notes:
        display.log(line)
    return learn_variants(
        base,
        variants,
        seeds,
        out,
        jobs,
        display,
        lambda cells, faults: _write_results(out, base, variants, cells, faults, chosen, title, notes),
    )


def _write_results(
    out: Path,
    base: Config,
    variants: Sequence[MethodVariant],
    cells: Sequence[Cell],
    faults: dict[str, str],
    reference: str,
    title: str,
    notes: Sequence[str],
) -> dict[str, Any]:
    rows = []
    for variant in variants:
        own_cells = [cell for cell in cells if cell.variant is variant]
        about = {
            "title": variant.title,
            "name": variant.name,
            "method": variant.method,
            "features": variant.features(base),
            "stream": variant.stream,
            "tuned": variant.tuned,
            "options": own_cells[0].config.method.options,
            "encoder": own_cells[0].config.encoder.model_dump(mode="json"),
        }
        rows.append((about, {cell.seed: cell.folder for cell in own_cells if cell.name not in faults}))
    results = collect(rows, reference, faults)
    results["notes"] += notes
    atomic_files.write_json(out / "results.json", results)
    for name, text in (
        ("table.md", tables.write_markdown(results)),
        ("table.tex", tables.write_latex(results)),
        ("table.csv", tables.write_csv(results)),
        ("report.html", render_sweep_page(results, title)),
    ):
        atomic_files.replace_file(out / name, text.encode())
    return results
