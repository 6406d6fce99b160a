"""The folder of the trunk cache: a store of shards for each encoder, shared by all processes, within a budget.

    <folder>/files/*.memo             contents of files already read, see ``cache_keys.Contents``
    <folder>/<store>/about.json       encoder and device of the store
    <folder>/<store>/*.shard          see ``cache_shard``

A file is written under another name, synced and renamed, and never changed again; its modification time is that of
its last use. So processes need no lock: two may compute the same sample, and one of the copies is then not used. A
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
from weakref import WeakValueDictionary

import numpy as np

from mmcl_fast.feature_cache.keys import NO_PLACE, KeyTable, write_atomically
from mmcl_fast.feature_cache.shard import Damaged, Shard, read_keys

log = logging.getLogger("mmcl_fast")

MOST_ROWS = 1 << 20  # of a shard: a place is its number times this, plus the row
FREE = 10**9  # bytes of the disk that the cache leaves free
STALE = 3600  # seconds after which an unfinished file is taken for a killed process's

_open: WeakValueDictionary[str, Shard] = WeakValueDictionary()  # of this process: never evicted
_verified: set[str] = set()


class Store:
    """The shards of one encoder on one kind of device.

    Args:
        folder: of the whole cache.
        name: of the store.
        about: what about.json is to hold.
        budget: bytes of all shards in ``folder``.
    """

    def __init__(self, folder: Path, name: str, about: dict[str, str], budget: float):
        self.root, self.folder, self.about, self.budget = folder, folder / name, about, budget
        self._table = KeyTable()
        self._files: list[str] = []  # by number
        self._numbers: dict[str, int] = {}
        self._own = 0  # bytes written since the folder was last measured
        self._used: int | None = None  # bytes of all shards then
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
        """Shard and row of each key; None where there is none. Opens, verifies and marks as used what it returns."""
        wanted = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)
        while True:
            places = self._table.find(wanted)
            numbers = set((places[places != NO_PLACE] // MOST_ROWS).tolist())
            shards = {n: shard for n in numbers if (shard := self._shard(n)) is not None}
            if len(shards) == len(numbers):
                return [None if p == NO_PLACE else (shards[p // MOST_ROWS], p % MOST_ROWS) for p in places.tolist()]

    def write(self, buffer: bytearray, keys: Sequence[bytes], make_room: Callable[[], bool]) -> Shard | None:
        """Keep a packed shard with these keys; None where the budget does not take it.

        Args:
            make_room: lets go of shards that are open but not needed; whether there were any.

        Raises:
            OSError: it can't be written; nothing of it is left.
        """
        while not self._fits(len(buffer)):
            if not make_room():
                return None
        self._describe()
        file = write_atomically(self.folder, ".shard", buffer)
        self._own += len(buffer)
        self._add(file.name, np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16))
        _verified.add(str(file))
        return self._shard(self._numbers[file.name]) or Shard(buffer, verify=False)

    def _describe(self) -> None:
        file = self.folder / "about.json"
        if not file.exists():
            write_atomically(self.folder, ".tmp", json.dumps(self.about).encode()).replace(file)

    def _number(self, name: str) -> int:
        self._numbers[name] = len(self._files)
        self._files.append(name)
        return self._numbers[name]

    def _add(self, name: str, keys: np.ndarray) -> None:
        start = self._number(name) * MOST_ROWS
        self._table.add(keys, np.arange(start, start + len(keys)))

    def _forget(self, number: int) -> None:
        self._table.keep(lambda places: places // MOST_ROWS != number)

    def _discard(self, name: str, fault: Exception) -> None:
        log.warning(
            "trunk cache: %s is damaged (%s): deleted, its samples are computed again", self.folder / name, fault
        )
        with suppress(OSError):  # gone, or another user's
            (self.folder / name).unlink()

    def _shard(self, number: int) -> Shard | None:
        """An open shard; None, and forgotten, where it is gone or damaged."""
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
            with suppress(OSError):  # another user's
                os.utime(file)
            _verified.add(str(file))
            _open[str(file)] = shard
        return shard

    def _fits(self, size: int) -> bool:
        """Whether a shard of ``size`` bytes may be written; deletes the least recently used ones to that end."""
        if (
            self._used is None
            or self._used + self._own + size > self.budget
            or self._own > self.budget / 100
            or shutil.disk_usage(self.root).free < FREE + size
        ):
            found = sorted(((info.st_mtime_ns, info.st_size, path) for path, info in _shards(self.root)))
            self._used, self._own = sum(found_size for _, found_size, _ in found), 0
            excess = max(self._used + size - self.budget, FREE + size - shutil.disk_usage(self.root).free)
            for _, found_size, path in found:
                if excess <= 0:
                    break
                if str(path) not in _open:
                    path.unlink(missing_ok=True)
                    excess, self._used = excess - found_size, self._used - found_size
            return excess <= 0
        return True


def _shards(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for folder in _stores(root):
        for entry in os.scandir(folder):
            try:
                if entry.name.endswith(".shard"):
                    yield folder / entry.name, entry.stat()
                elif entry.name.endswith((".part", ".tmp")) and time.time() - entry.stat().st_mtime > STALE:
                    os.unlink(entry.path)
            except FileNotFoundError:
                continue


def _stores(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and len(p.name) == 32) if root.is_dir() else []


def store_name(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Usage:
    """A store as ``mmcl-fast cache ls`` shows it. used: seconds since 1970 of the last use."""

    store: str
    encoder: str
    device: str
    samples: int
    shards: int
    bytes: int
    used: float


def usage(root: Path) -> list[Usage]:
    """What a cache folder holds, the last used store first."""
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
        out.append(
            Usage(
                folder.name, str(about.get("encoder", "?")), str(about.get("device", "?")), samples, shards, size, used
            )
        )
    return sorted(out, key=lambda u: -u.used)


def size_of(root: Path) -> int:
    """Bytes of all shards in a cache folder."""
    return sum(info.st_size for _, info in _shards(root))


def clear(root: Path, stores: Sequence[str] | None = None, older: float = 0.0) -> tuple[int, int]:
    """Delete the shards that were last used more than ``older`` seconds ago, of some stores or (None) of all; without
    a limit of any kind the memo of files' contents too. Nothing else is deleted. Returns shards and bytes."""
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
    with suppress(OSError):  # something of another's is in it
        folder.rmdir()
