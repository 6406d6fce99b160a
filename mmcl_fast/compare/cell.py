"""The cells of a table, a run folder each, and which of them are there already."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcl_fast.compare.rows import Row
from mmcl_fast.config import Config
from mmcl_fast.errors import RunError
from mmcl_fast.report import page
from mmcl_fast.runs import train as runs
from mmcl_fast.runs.make_stream import check_stream_files
from mmcl_fast.streams import Stream
from mmcl_fast.streams.broken_samples import BrokenSample


@dataclass(frozen=True)
class Cell:
    """A row with one seed, and its run folder.

    Attributes:
        begun: the folder holds a run of this config, which is gone on with.
        finished: that run is whole, and is taken as it is.
    """

    row: Row
    seed: int
    config: Config
    folder: Path
    begun: bool = False
    finished: bool = False

    @property
    def name(self) -> str:
        return f"{self.row.title}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """What its process says beside its events."""
        return self.folder.with_name(f"{self.folder.name}.log")


def plan(base: Config, rows: Sequence[Row], seeds: Sequence[int], out: Path) -> list[Cell]:
    """The cells OUT/<row>/seed-<n>, all rows of a seed before those of the next.

    Raises:
        RunError: a folder holds a run of another config or of other data (names the difference), or no run.
        ConfigError, StreamError: there is no such stream.
    """
    if (out / "config.json").exists():
        raise RunError(f"{out}: is a run folder, not that of a sweep; give another --out")
    streams: dict[str, Stream] = {}
    cells = []
    for seed in seeds:
        for row in rows:
            config, folder = row.config(base, seed), out / row.folder / f"seed-{seed}"
            begun = runs.holds_run(folder, resume=True)
            key = json.dumps([config.stream.model_dump(mode="json"), str(folder) * (folder / runs.SKIPPED).is_file()])
            if key not in streams:
                streams[key] = runs.make_stream(config, folder)
            runs.examine(config, folder, streams[key], resume=True)
            cells.append(Cell(row, seed, config, folder, begun, begun and _finished(folder)))
    return cells


def _finished(folder: Path) -> bool:
    """Whether the summary is there and whole; a damaged one is written again by going on with the run."""
    try:
        page.read(folder)
    except RunError:
        return False
    return True


def check_data(cells: Sequence[Cell], progress: Any = None) -> list[BrokenSample]:
    """Decode every file once, for all cells that have not begun.

    Returns:
        The samples that they are to leave out (stream.on_broken = "skip").

    Raises:
        MediaError: a file does not decode.
    """
    new = [cell for cell in cells if not cell.begun]
    if not new or not new[0].config.stream.check:
        return []
    config = new[0].config
    return check_stream_files(config, runs.make_stream(config), progress=progress).skipped


def tasks_learned(folder: Path) -> int:
    """How many tasks a run has learned and evaluated, whatever the state of its log."""
    try:
        return (folder / "metrics.jsonl").read_bytes().count(b'\n{"event": "task"')
    except OSError:
        return 0
