"""Leave samples that leak out of training: files are moved, tables are written anew, and nothing is deleted.

Training samples leave, and test samples stay, so that results on the test split can still be compared with others.
Files go to ``DATA/.left_out/1``, which streams pass over. ``moves.jsonl`` there lists the moves before the first one is
made, so that ``undo_moves`` brings everything back, also after a stop in the middle.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmcl_fast import atomic_files
from mmcl_fast.errors import RunError, StreamError, UserError
from mmcl_fast.streams.leaks import Leak
from mmcl_fast.streams.sources.detect import detect_source
from mmcl_fast.streams.sources.manifest import manifest_file, manifest_numbers
from mmcl_fast.streams.sources.table_writer import copy_without_rows
from mmcl_fast.streams.sources.text_table import find_split_tables

LEFT_OUT = ".left_out"  # a hidden folder, so that its files belong to no class
MOVES = "moves.jsonl"


@dataclass(frozen=True)
class Fix:
    """The result of ``fix_leaks``.

    Attributes:
        left_out: leaks whose samples were left out.
        stuck: leaks whose samples could not be.
        written: the folder that files were moved to, or the new table; empty: nothing was to be done.
        undo: the command that brings the files back; empty where nothing was moved.
    """

    left_out: Sequence[Leak]
    stuck: Sequence[Leak]
    written: str = ""
    undo: str = ""


def fix_leaks(source: str, leaks: Sequence[Leak], overrides: Sequence[str] = ()) -> Fix:
    """Leave the samples of leaks out of the data at ``source``.

    Args:
        source: a folder, manifest, table or tars, or a config whose [stream] names one.
        leaks: what ``find_leaks`` has found in it.
        overrides: ``KEY=VALUE`` for keys of the config.

    Raises:
        RunError: a file can't be moved or written. What was moved before is in the list of moves.
        StreamError: the data can't be changed.
    """
    kind, path = _place(source, overrides)
    free = [leak for leak in leaks if not leak.stuck]
    stuck = [leak for leak in leaks if leak.stuck]
    if kind == "folder":
        free, more = _movable(path, free)
        stuck += more
        return _move(path, free, stuck) if free else Fix([], stuck)
    if not free:
        return Fix([], stuck)
    keys = {leak.leaves.key for leak in free}
    if kind == "manifest":
        file = manifest_file(path)
        numbers = {number for key, number in manifest_numbers(file).items() if key in keys}
        return Fix(free, stuck, _write_beside(file, numbers))
    if kind == "table" and path.is_dir():
        return Fix(free, stuck, _write_folder(path, keys))
    if kind == "table":
        return Fix(free, stuck, _write_beside(path, _row_numbers(keys, path.name)))
    raise StreamError(
        f"{source}: --fix changes folders, manifests and tables, not {kind}: write it again without these"
    )


def undo_moves(place: Path) -> int:
    """Move back what ``fix_leaks`` has moved, and return the number of files.

    Args:
        place: a folder ``.left_out/N``, or its moves.jsonl.

    Raises:
        RunError: the list is missing or damaged, or a file can't be moved back. The others are back then, and the list
            stays.
    """
    file = place / MOVES if place.is_dir() else place
    root = file.absolute().parents[2] if len(file.absolute().parents) > 2 else file.absolute().parent
    count, clashes = 0, []
    for origin, target in _read_moves(file):
        before, after = root / origin, root / target
        if not os.path.lexists(after):
            continue  # never moved, or back already
        if os.path.lexists(before):
            clashes.append(str(before))
            continue
        with atomic_files.explain_write_errors(before):
            before.parent.mkdir(parents=True, exist_ok=True)
            os.rename(after, before)
        count += 1
    if clashes:
        raise RunError(
            f"{clashes[0]}: is there again, and {len(clashes)} files stay in {file.parent}; rename one of each"
        )
    with atomic_files.explain_write_errors(file):
        file.unlink()
        for folder, _, _ in os.walk(file.parent, topdown=False):
            if not os.listdir(folder):
                os.rmdir(folder)
        if not os.listdir(file.parent.parent):
            os.rmdir(file.parent.parent)
    return count


def _place(source: str, overrides: Sequence[str]) -> tuple[str, Path]:
    """Return the kind and the path of the data."""
    if not source.endswith(".toml"):
        return detect_source(source), Path(source)
    from mmcl_fast.config import load_config

    stream = load_config(source, overrides).stream
    if not isinstance(stream.path, str):
        raise StreamError(f'{source}: source = "{stream.source}" has no one path that --fix could change; give a path')
    return stream.source, Path(stream.path)


def _movable(root: Path, leaks: Sequence[Leak]) -> tuple[list[Leak], list[Leak]]:
    """Return the leaks whose files lie in the folder itself, and the others with the reason why they are stuck."""
    free, stuck = [], []
    real = os.path.realpath(root)
    for leak in leaks:
        path = leak.leaves.path
        if not isinstance(path, Path):
            stuck.append(replace(leak, stuck="a row of a table in a folder: remove the row"))
        elif os.path.commonpath([real, os.path.realpath(path.parent)]) != real:
            stuck.append(replace(leak, stuck="a link leads to it, out of the folder: remove the link"))
        else:
            free.append(leak)
    return free, stuck


def _move(root: Path, leaks: Sequence[Leak], stuck: Sequence[Leak]) -> Fix:
    folder = _new_folder(root / LEFT_OUT)
    moves = []
    for leak in leaks:
        origin = Path(os.path.abspath(str(leak.leaves.path))).relative_to(os.path.abspath(root)).as_posix()
        moves.append((origin, f"{LEFT_OUT}/{folder.name}/{origin}"))
    lines = [json.dumps({"from": origin, "to": target}) for origin, target in moves]
    undo = shlex.join(["mmcl-fast", "data", "undo", str(folder)])
    with atomic_files.explain_write_errors(folder):
        atomic_files.write_file(folder / MOVES, "".join(f"{line}\n" for line in lines).encode())
        atomic_files.sync_path(folder)
    for number, (origin, target) in enumerate(moves):
        try:
            (root / target).parent.mkdir(parents=True, exist_ok=True)
            os.rename(root / origin, root / target)
        except OSError as fault:
            raise RunError(
                f"{root / origin}: can't be moved ({fault.strerror}); {number} of {len(moves)} files were; bring them "
                f"back with: {undo}"
            ) from None
    return Fix(leaks, stuck, str(folder), undo)


def _new_folder(parent: Path) -> Path:
    """Make the first of the folders 1, 2, ... that does not exist."""
    with atomic_files.explain_write_errors(parent):
        parent.mkdir(exist_ok=True)
        number = 1
        while True:
            try:
                (parent / str(number)).mkdir()
                return parent / str(number)
            except FileExistsError:
                number += 1


def _read_moves(file: Path) -> Iterator[tuple[str, str]]:
    """Return the paths that a list of moves names, relative to the data's folder."""
    try:
        values = [json.loads(line) for line in file.read_text(encoding="ascii").splitlines()]
        moves = [(value["from"], value["to"]) for value in values]
        for path in (path for move in moves for path in move):
            if os.path.isabs(path) or ".." in path.split("/"):
                raise ValueError(f"{path!r} leads out of the folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        raise RunError(f"{file}: not a list of moves ({fault}); give a folder such as data/{LEFT_OUT}/1") from None
    return iter(moves)


def _row_numbers(keys: Collection[str], name: str) -> set[int]:
    """Return the rows of a table that keys such as ``train.csv:12`` name."""
    parts = (key.rpartition(":") for key in keys)
    return {int(number) for file, _, number in parts if file == name}


def _write_beside(file: Path, numbers: Collection[int]) -> str:
    target = file.with_name(f"{file.stem}.fixed{file.suffix}")
    _require_new(target)
    copy_without_rows(file, target, numbers)
    return str(target)


def _write_folder(folder: Path, keys: Collection[str]) -> str:
    """Write the tables of a folder into a new one beside it, with the files that name their classes."""
    folder = Path(os.path.abspath(folder))
    target = folder.with_name(f"{folder.name}-fixed")
    _require_new(target)
    tables = find_split_tables(folder)
    with atomic_files.explain_write_errors(target):
        target.mkdir()
        for name in ("classes.json", "classes.txt"):
            if (folder / name).is_file():
                shutil.copy(folder / name, target / name)
    for file in tables:
        copy_without_rows(file, target / file.name, _row_numbers(keys, file.name))
    return str(target)


def _require_new(target: Path) -> None:
    if os.path.lexists(target):
        raise UserError(f"{target}: is there already; rename or remove it, since nothing is overwritten")
