"""The cells of a sweep: one run folder for each variant and seed, and which of them are finished."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcl_fast.compare.variants import MethodVariant
from mmcl_fast.config import Config
from mmcl_fast.errors import RunError, StreamError
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
        finished: that run is finished and its files can be read; its results are used as they are.
    """

    variant: MethodVariant
    seed: int
    config: Config
    folder: Path
    begun: bool = False
    finished: bool = False

    @property
    def name(self) -> str:
        """Return the cell's name in messages, such as "comm, seed 0"."""
        return f"{self.variant.name}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """Return the file beside the run folder that gets what the cell's process prints, tracebacks too."""
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
                try:
                    streams[key] = make_stream(config, folder)
                except StreamError as fault:
                    if not variant.stream:
                        raise
                    raise StreamError(f"{variant.spec}: {fault}") from None
            check_run_folder(config, folder, streams[key], resume=True)
            cells.append(Cell(variant, seed, config, folder, begun, begun and _is_finished(folder)))
    return cells


def _is_finished(folder: Path) -> bool:
    """Return whether ``read_run`` can read the run: it is finished, and no file of it is damaged.

    Resuming the run writes a damaged summary.json again, and drops a last line of metrics.jsonl that was cut short.
    """
    try:
        read_run(folder)
    except RunError:
        return False
    return True


def check_data(cells: Sequence[Cell], progress: Any = None) -> list[BrokenSample]:
    """Decode every file of the first new cell's stream, if its config has stream.check.

    With stream.share, the cells of another seed may learn samples that this stream lacks. They are not checked.

    Returns:
        The broken samples that this stream leaves out, if the config has stream.on_broken = "skip".

    Raises:
        MediaError: a file does not decode, and stream.on_broken is "error".
        StreamError: too little remains of a class, or two splits hold equal content.
    """
    new = [cell for cell in cells if not cell.begun]
    if not new or not new[0].config.stream.check:
        return []
    config = new[0].config
    return check_stream_files(config, make_stream(config), progress=progress).skipped


def count_learned_tasks(folder: Path) -> int:
    """Return how many tasks a run has learned and evaluated: the task lines of its log, a last one cut short too."""
    try:
        return (folder / "metrics.jsonl").read_bytes().count(b'\n{"event": "task"')
    except OSError:
        return 0
