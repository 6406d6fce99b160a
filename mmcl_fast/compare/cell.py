"""The cells of a sweep: one run folder for each variant and seed, and which of them are finished."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcl_fast.compare.variants import MethodVariant
from mmcl_fast.config import Config
from mmcl_fast.errors import RunError
from mmcl_fast.report.read_run import read_run
from mmcl_fast.runs.folder import SKIPPED, check_run_folder, holds_run
from mmcl_fast.runs.make_stream import check_stream_files, make_stream
from mmcl_fast.streams import Stream
from mmcl_fast.streams.broken_samples import BrokenSample


@dataclass(frozen=True)
class Cell:
    """A variant with one seed, and its run folder.

    Attributes:
        begun: the folder holds a run of this config; learning resumes it.
        finished: that run is finished; its results are used as they are.
    """

    variant: MethodVariant
    seed: int
    config: Config
    folder: Path
    begun: bool = False
    finished: bool = False

    @property
    def name(self) -> str:
        return f"{self.variant.title}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """Return the file of what the cell's process prints, its tracebacks too."""
        return self.folder.with_name(f"{self.folder.name}.log")


def plan_cells(base: Config, variants: Sequence[MethodVariant], seeds: Sequence[int], out: Path) -> list[Cell]:
    """Return the cells ``out/<variant>/seed-<n>``: all variants of the first seed, then of the next.

    Raises:
        RunError: a folder holds a run of another config or other data, or something that is no run.
        ConfigError, StreamError: the config names no stream that can be read.
    """
    if (out / "config.json").exists():
        raise RunError(f"{out}: is a run folder, not the folder of a sweep; give another --out")
    streams: dict[str, Stream] = {}
    cells = []
    for seed in seeds:
        for variant in variants:
            config, folder = variant.make_config(base, seed), out / variant.folder / f"seed-{seed}"
            begun = holds_run(folder, resume=True)
            # Cells of one seed share a stream. A run that left out broken samples has its own.
            key = json.dumps([config.stream.model_dump(mode="json"), str(folder) * (folder / SKIPPED).is_file()])
            if key not in streams:
                streams[key] = make_stream(config, folder)
            check_run_folder(config, folder, streams[key], resume=True)
            cells.append(Cell(variant, seed, config, folder, begun, begun and _is_finished(folder)))
    return cells


def _is_finished(folder: Path) -> bool:
    """Return whether the run has a readable summary. If it is damaged, resuming the run writes it again."""
    try:
        read_run(folder)
    except RunError:
        return False
    return True


def check_data(cells: Sequence[Cell], progress: Any = None) -> list[BrokenSample]:
    """Decode every file once for all cells that have not begun, if the config asks for this check.

    Returns:
        The broken samples that these cells leave out, if the config has stream.on_broken = "skip".

    Raises:
        MediaError: a file does not decode.
    """
    new = [cell for cell in cells if not cell.begun]
    if not new or not new[0].config.stream.check:
        return []
    config = new[0].config
    return check_stream_files(config, make_stream(config), progress=progress).skipped


def count_learned_tasks(folder: Path) -> int:
    """Return how many tasks a run has learned and evaluated. A log that ends inside a line is read as well."""
    try:
        return (folder / "metrics.jsonl").read_bytes().count(b'\n{"event": "task"')
    except OSError:
        return 0
