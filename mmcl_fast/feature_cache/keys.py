"""What the trunk cache calls a sample: the content of its file or its text, read once while the file stays as it is."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mmcl_fast.errors import MediaError
from mmcl_fast.media.source import Slice, name_of, open_binary
from mmcl_fast.media.spec import LIMITS, Spec

NO_PLACE = -1
MOST_MEMOS = 64  # files of the memo, before they are made one
READ = 1 << 20


class KeyTable:
    """16-byte keys -> places (int64 >= 0), in sorted arrays: 24 bytes an entry. Of equal keys the first one counts."""

    def __init__(self) -> None:
        self._keys, self._places = np.empty((0, 2), np.uint64), np.empty(0, np.int64)
        self._new: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, keys: np.ndarray, places: np.ndarray) -> None:
        """keys: ``[n, 16]`` uint8."""
        self._new.append((np.ascontiguousarray(keys).view(np.uint64), places.astype(np.int64)))

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The places of keys ``[n, 16]`` uint8, NO_PLACE where unknown."""
        self._merge()
        wanted = np.ascontiguousarray(keys).view(np.uint64)
        out = np.full(len(wanted), NO_PLACE)
        first, last = self._keys[:, 0], len(self._keys) - 1
        at, open_ = np.searchsorted(first, wanted[:, 0]), np.arange(len(wanted))
        while len(open_):
            open_ = open_[at[open_] <= last]
            open_ = open_[first[at[open_]] == wanted[open_, 0]]
            hit = self._keys[at[open_], 1] == wanted[open_, 1]
            out[open_[hit]] = self._places[at[open_[hit]]]
            open_ = open_[~hit]
            at[open_] += 1
        return out

    def keep(self, wanted: Callable[[np.ndarray], np.ndarray]) -> None:
        """Drop all entries but those for which ``wanted(places)`` is True."""
        self._merge()
        chosen = wanted(self._places)
        self._keys, self._places = self._keys[chosen], self._places[chosen]

    def _merge(self) -> None:
        if self._new:
            keys = np.concatenate([self._keys, *(k for k, _ in self._new)])
            places = np.concatenate([self._places, *(p for _, p in self._new)])
            order = np.argsort(keys[:, 0], kind="stable")
            self._keys, self._places, self._new = keys[order], places[order], []


class Contents:
    """sha256 of samples' contents. What was read is remembered in ``folder`` under (path, size, times of change,
    inode), so that a file that stays as it is is read once; a changed one is read again.

    The memo is a folder of files, each crc32 (4 bytes) and rows of 48 bytes: blake2b of where the file was and what
    it looked like (16), sha256 of its bytes (32). A damaged one is ignored.
    """

    def __init__(self, folder: Path, workers: int):
        self.folder, self.workers = folder, workers
        self._table, self._digests = KeyTable(), bytearray()
        self._new: list[bytes] = []
        self._loaded = False

    def of(self, samples: Sequence[Any]) -> list[bytes]:
        """32 bytes each. Raises MediaError that names a file that can't be read."""
        out = [b""] * len(samples)
        files: list[int] = []
        for i, sample in enumerate(samples):
            if sample.path is None:
                out[i] = hashlib.sha256(b"text\0" + sample.text.encode(errors="surrogatepass")).digest()
            else:
                files.append(i)
        if not files:
            return out
        self._load()
        looks = [_look(samples[i].path) for i in files]
        places = self._table.find(np.frombuffer(b"".join(looks), np.uint8).reshape(-1, 16))
        unread = {look: samples[i].path for i, look, place in zip(files, looks, places) if place == NO_PLACE}
        read = {}
        if unread:
            with ThreadPoolExecutor(max(1, self.workers), "mmcl-fast-hash") as pool:
                read = dict(zip(unread, pool.map(_digest, unread.values())))
            self._learn([look + digest for look, digest in read.items()])
            self._new += [look + digest for look, digest in read.items()]
        for i, look, place in zip(files, looks, places.tolist()):
            out[i] = read[look] if place == NO_PLACE else bytes(self._digests[32 * place : 32 * place + 32])
        return out

    def save(self) -> None:
        """Write down what was read since the last time. Raises OSError."""
        if self._new:
            self._write(b"".join(self._new))
            self._new = []

    def _learn(self, rows: list[bytes]) -> None:
        keys = np.frombuffer(b"".join(row[:16] for row in rows), np.uint8).reshape(-1, 16)
        known = len(self._digests) // 32
        self._table.add(keys, np.arange(known, known + len(rows)))
        self._digests += b"".join(row[16:] for row in rows)

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded, whole, files = True, b"", sorted(self.folder.glob("*.memo"))
        for file in files:
            try:
                data = file.read_bytes()
            except OSError:
                continue
            if len(data) % 48 == 4 and zlib.crc32(data[4:]) == int.from_bytes(data[:4], "little"):
                whole += data[4:]
        rows = list(dict.fromkeys(whole[i : i + 48] for i in range(0, len(whole), 48)))
        if rows:
            self._learn(rows)
        if len(files) > MOST_MEMOS:
            try:
                self._write(b"".join(rows))
                for file in files:
                    file.unlink(missing_ok=True)
            except OSError:
                return  # many small files serve too

    def _write(self, rows: bytes) -> None:
        write_atomically(self.folder, ".memo", zlib.crc32(rows).to_bytes(4, "little") + rows)


def write_atomically(folder: Path, suffix: str, data: bytes | bytearray) -> Path:
    """Write a new file of a name of its own: whole and on the disk, or not there. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{os.urandom(12).hex()}{suffix}"
    temporary = file.with_suffix(".part")
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return file


def _look(source: Any) -> bytes:
    """16 bytes of where a file is and what it looks like from outside; of a slice, its place in the file too."""
    place = (source.offset, source.size) if isinstance(source, Slice) else ()
    path = source.path if isinstance(source, Slice) else source
    try:
        info = os.stat(path)
    except OSError as error:
        raise MediaError(f"{name_of(source)}: {error.strerror}: check the path") from error
    look = (os.path.abspath(path), info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, *place)
    return hashlib.blake2b(repr(look).encode(errors="surrogatepass"), digest_size=16).digest()


def _digest(source: Any) -> bytes:
    digest = hashlib.sha256(b"file\0")
    try:
        with open_binary(source) as stream:
            while part := stream.read(READ):
                digest.update(part)
    except OSError as error:
        raise MediaError(f"{name_of(source)}: {error.strerror}: check the path") from error
    return digest.digest()


def sample_keys(
    samples: Sequence[Any], contents: Sequence[bytes], spec: Spec, backend: str, *, view: int, seed: int
) -> list[bytes]:
    """16 bytes for each sample: blake2b of its content and of all that is done to it before the trunk. A random view
    is drawn from (seed, view, the sample's key), so these count where there is one; a text has none."""
    view = 0 if spec.modality == "text" else view
    preparation = {k: v for k, v in spec.to_dict().items() if k not in LIMITS}
    base = hashlib.blake2b(repr((backend, preparation, (view, seed) if view else 0)).encode(), digest_size=16)
    out = []
    for sample, content in zip(samples, contents):
        digest = base.copy()
        digest.update(content + (sample.key.encode(errors="surrogatepass") if view else b""))
        out.append(digest.digest())
    return out


@cache
def code_digest() -> str:
    """sha256 over the sources that decode and that run trunks: other code, other tokens."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted([*(package / "encoders").rglob("*.py"), *(package / "media").rglob("*.py")]):
        digest.update(str(file.relative_to(package)).encode() + file.read_bytes())
    return digest.hexdigest()
