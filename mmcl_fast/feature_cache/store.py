"""The folder of the feature cache: stores of shards, shared by all processes, within a budget.

    <folder>/files/*.memo             contents of files already read, see ``ContentHashes``
    <folder>/<store>/about.json       encoder, device, modality and versions of the store
    <folder>/<store>/*.shard          see ``shard``

A file is written under another name, synced and renamed, and never changed again. Its modification time is the time
of its last use. So processes need no lock: two may compute the same sample, and one of the copies is then not used. A
shard that is deleted while another process has it mapped stays readable there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from mmcl_fast.feature_cache.keys import NO_PLACE, KeyTable
from mmcl_fast.feature_cache.new_file import write_new_file
from mmcl_fast.feature_cache.shard import Damaged, Shard, read_keys

log = logging.getLogger("mmcl_fast")

MAX_ROWS = 1 << 20  # rows of a shard: a sample's place is its shard's number times this, plus its row
DISK_RESERVE = 10**9  # bytes of the disk that the cache leaves free
STALE_SECONDS = 3600  # an unfinished file of this age was left by a process that was killed

_open: WeakValueDictionary[str, Shard] = WeakValueDictionary()  # by path, in this process: these are never evicted
_verified: set[str] = set()  # paths whose checksums this process has compared


class Store:
    """The shards of one encoder, modality, kind of device and set of versions.

    Args:
        folder: the folder of the cache.
        name: the name of the store, which is its folder in ``folder``; see ``store_name``.
        about: the content of about.json, for people and for ``usage``.
        budget: limit for all shards in ``folder``, in bytes.
    """

    def __init__(self, folder: Path, name: str, about: dict[str, Any], budget: float):
        self.root, self.folder, self.about, self.budget = folder, folder / name, about, budget
        self._table = KeyTable()
        self._files: list[str] = []  # a shard's number is its place here
        self._numbers: dict[str, int] = {}
        self._measured: int | None = None  # bytes of all shards when the folder was last measured
        self._written = 0  # bytes written since then
        self.refresh()

    def refresh(self) -> None:
        """Take in the shards that this or another process has written."""
        try:
            names = sorted(entry.name for entry in os.scandir(self.folder) if entry.name.endswith(".shard"))
        except FileNotFoundError:
            return
        for name in names:
            if name not in self._numbers:
                try:
                    self._add(name, read_keys(self.folder / name))
                except Damaged as fault:
                    self._number(name)
                    self._discard(name, fault)
                except OSError:
                    continue  # evicted in between

    def find(self, keys: Sequence[bytes]) -> list[tuple[Shard, int] | None]:
        """Return shard and row for each key, None for an unknown key; open, verify and mark the shards as used."""
        wanted = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)
        while True:  # once more if a shard has been deleted since, or is damaged
            places = self._table.find(wanted)
            numbers = set((places[places != NO_PLACE] // MAX_ROWS).tolist())
            shards = {n: shard for n in numbers if (shard := self._shard(n)) is not None}
            if len(shards) == len(numbers):
                return [None if p == NO_PLACE else (shards[p // MAX_ROWS], p % MAX_ROWS) for p in places.tolist()]

    def write(self, buffer: bytearray, keys: Sequence[bytes], make_room: Callable[[], bool]) -> Shard | None:
        """Write a packed shard; return None where the budget has no room for it.

        Args:
            buffer: the bytes from ``pack``.
            keys: the keys of its samples, in order.
            make_room: closes open shards that nobody needs; returns whether there were any.

        Raises:
            OSError: the shard can't be written; nothing of it is left.
        """
        while not self._fits(len(buffer)):
            if not make_room():
                return None
        self.describe()
        file = write_new_file(self.folder, ".shard", buffer)
        self._written += len(buffer)
        self._add(file.name, np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16))
        _verified.add(str(file))
        return self._shard(self._numbers[file.name]) or Shard(buffer, verify=False)

    def describe(self) -> None:
        """Write about.json where it is missing. Raises OSError."""
        file = self.folder / "about.json"
        if not file.exists():
            write_new_file(self.folder, ".tmp", json.dumps(self.about).encode()).replace(file)

    def _number(self, name: str) -> int:
        self._numbers[name] = len(self._files)
        self._files.append(name)
        return self._numbers[name]

    def _add(self, name: str, keys: np.ndarray) -> None:
        start = self._number(name) * MAX_ROWS
        self._table.add(keys, np.arange(start, start + len(keys)))

    def _forget(self, number: int) -> None:
        self._table.keep(lambda places: places // MAX_ROWS != number)

    def _discard(self, name: str, fault: Exception) -> None:
        log.warning(
            "feature cache: %s is damaged (%s): deleted, its samples are computed again", self.folder / name, fault
        )
        with suppress(OSError):  # already deleted, or another user's
            (self.folder / name).unlink()

    def _shard(self, number: int) -> Shard | None:
        """Return an open shard. One that is deleted or damaged leaves the table, and None is returned."""
        file = self.folder / self._files[number]
        shard = _open.get(str(file))
        if shard is None:
            try:
                shard = Shard.open(file, verify=str(file) not in _verified)
            except (Damaged, OSError) as fault:
                if isinstance(fault, Damaged):
                    self._discard(file.name, fault)
                self._forget(number)
                return None
            with suppress(OSError):  # another user's file
                os.utime(file)  # marks it as used
            _verified.add(str(file))
            _open[str(file)] = shard
        return shard

    def _fits(self, size: int) -> bool:
        """Delete the least recently used shards until ``size`` bytes fit; return whether they fit."""
        if (
            self._measured is None
            or self._measured + self._written + size > self.budget
            or self._written > self.budget / 100
            or shutil.disk_usage(self.root).free < DISK_RESERVE + size
        ):
            found = sorted(((info.st_mtime_ns, info.st_size, path) for path, info in _shards(self.root)))
            self._measured, self._written = sum(found_size for _, found_size, _ in found), 0
            excess = max(self._measured + size - self.budget, DISK_RESERVE + size - shutil.disk_usage(self.root).free)
            for _, found_size, path in found:
                if excess <= 0:
                    break
                if str(path) not in _open:
                    path.unlink(missing_ok=True)
                    excess, self._measured = excess - found_size, self._measured - found_size
            return excess <= 0
        return True


def _shards(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield path and stat of every shard in a cache folder, and delete what killed processes left."""
    for folder in _stores(root):
        for entry in os.scandir(folder):
            try:
                if entry.name.endswith(".shard"):
                    yield folder / entry.name, entry.stat()
                elif entry.name.endswith((".part", ".tmp")) and time.time() - entry.stat().st_mtime > STALE_SECONDS:
                    os.unlink(entry.path)
            except FileNotFoundError:
                continue


def _stores(root: Path) -> list[Path]:
    """Return the folders of the stores: their names have 32 characters."""
    return sorted(p for p in root.iterdir() if p.is_dir() and len(p.name) == 32) if root.is_dir() else []


def store_name(*parts: str) -> str:
    """Return 32 hexadecimal digits that stand for ``parts``."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Usage:
    """A store as ``mmcl-fast cache ls`` shows it.

    Attributes:
        store: its name.
        encoder, device, modality: of its samples; ``?`` where the store does not say it.
        samples, shards, bytes: how much it holds.
        used: time of the last use, in seconds since 1970.
    """

    store: str
    encoder: str
    device: str
    modality: str
    samples: int
    shards: int
    bytes: int
    used: float


def usage(root: Path) -> list[Usage]:
    """List the stores of a cache folder, the last used one first."""
    out = []
    for folder in _stores(root):
        try:
            about = json.loads((folder / "about.json").read_text())
        except (OSError, ValueError):
            about = {}
        samples = shards = size = 0
        used = 0.0
        for entry in os.scandir(folder):
            if entry.name.endswith(".shard"):
                try:
                    info = entry.stat()
                    samples += len(read_keys(Path(entry.path)))
                except (Damaged, OSError):
                    continue
                shards, size, used = shards + 1, size + info.st_size, max(used, info.st_mtime)
        encoder, device, modality = (str(about.get(name, "?")) for name in ("encoder", "device", "modality"))
        out.append(Usage(folder.name, encoder, device, modality, samples, shards, size, used))
    return sorted(out, key=lambda usage: -usage.used)


def size_of(root: Path) -> int:
    """Return the bytes of all shards in a cache folder."""
    return sum(info.st_size for _, info in _shards(root))


def clear(root: Path, stores: Sequence[str] | None = None, older: float = 0.0) -> tuple[int, int]:
    """Delete shards, and the folders of stores that are then empty.

    Without any limit the memo of files' contents goes too. Files that the cache did not write stay.

    Args:
        root: the cache folder.
        stores: names of the stores to delete from; None: all.
        older: delete only shards whose last use is more than so many seconds ago; 0: all.

    Returns:
        How many shards were deleted, and their bytes.
    """
    count = size = 0
    for path, info in _shards(root):
        if (stores is None or path.parent.name in stores) and (not older or time.time() - info.st_mtime > older):
            path.unlink(missing_ok=True)
            count, size = count + 1, size + info.st_size
    for folder in _stores(root):
        if not any(entry.name.endswith((".shard", ".part")) for entry in os.scandir(folder)):
            (folder / "about.json").unlink(missing_ok=True)
            _remove(folder)
    if stores is None and not older:
        for file in (root / "files").glob("*.memo"):
            file.unlink(missing_ok=True)
        _remove(root / "files")
    return count, size


def _remove(folder: Path) -> None:
    with suppress(OSError):  # it holds a file that the cache did not write
        folder.rmdir()
