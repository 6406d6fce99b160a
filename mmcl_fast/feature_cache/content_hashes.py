"""Hashes of samples' contents. A file is read once, and again only when it looks changed from outside."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from mmcl_fast.errors import MediaError
from mmcl_fast.feature_cache.keys import NO_PLACE, KeyTable
from mmcl_fast.feature_cache.new_file import write_new_file
from mmcl_fast.media.source import Slice, name_of, open_binary

MAX_MEMOS = 64  # memo files; more are merged to one
READ_SIZE = 1 << 20
ID_SIZE, DIGEST_SIZE = 16, 32  # bytes
ENTRY_SIZE = ID_SIZE + DIGEST_SIZE


class ContentHashes:
    """sha256 of samples' contents, with a memo on disk of the files that were read.

    A file's identity is its path, size, times of change and inode. While the identity stays, the file is not read
    again. The memo is a folder of files: each holds a crc32 (4 bytes), then entries of 48 bytes. An entry is blake2b
    of the identity (16 bytes) and sha256 of the content (32 bytes). A damaged memo file is ignored.

    Args:
        folder: the folder of the memo; it need not exist.
        workers: threads that read files.
    """

    def __init__(self, folder: Path, workers: int):
        self.folder, self.workers = folder, workers
        self._table, self._digests = KeyTable(), bytearray()
        self._unsaved: list[bytes] = []
        self._loaded = False

    def digests(self, samples: Sequence[Any]) -> list[bytes]:
        """Return 32 bytes for each sample. Of a file or text that is gone the sample's ``sha256`` counts.

        Raises:
            MediaError: names a file that can't be read, and that has no known hash.
        """
        out = [b""] * len(samples)
        files: list[int] = []
        identities: list[bytes] = []
        for i, sample in enumerate(samples):
            known = getattr(sample, "sha256", "")
            if sample.path is None and not sample.text and known:  # of a run that keeps no texts
                out[i] = bytes.fromhex(known)
                continue
            if sample.path is None:
                out[i] = hashlib.sha256(b"text\0" + sample.text.encode(errors="surrogatepass")).digest()
                continue
            try:
                identities.append(_identity(sample.path))
                files.append(i)
            except MediaError:
                if not known:
                    raise
                out[i] = bytes.fromhex(known)
        if not files:
            return out
        self._load()
        places = self._table.find(np.frombuffer(b"".join(identities), np.uint8).reshape(-1, ID_SIZE))
        unread = {
            identity: samples[i].path for i, identity, place in zip(files, identities, places) if place == NO_PLACE
        }
        read = {}
        if unread:
            with ThreadPoolExecutor(max(1, self.workers), "mmcl-fast-hash") as pool:
                read = dict(zip(unread, pool.map(_digest, unread.values())))
            entries = [identity + digest for identity, digest in read.items()]
            self._add(entries)
            self._unsaved += entries
        for i, identity, place in zip(files, identities, places.tolist()):
            start = DIGEST_SIZE * place
            out[i] = read[identity] if place == NO_PLACE else bytes(self._digests[start : start + DIGEST_SIZE])
        return out

    def save(self) -> None:
        """Write the entries that are new since the last call. Raises OSError."""
        if self._unsaved:
            self._write(b"".join(self._unsaved))
            self._unsaved = []

    def _add(self, entries: list[bytes]) -> None:
        keys = np.frombuffer(b"".join(entry[:ID_SIZE] for entry in entries), np.uint8).reshape(-1, ID_SIZE)
        known = len(self._digests) // DIGEST_SIZE
        self._table.add(keys, np.arange(known, known + len(entries)))
        self._digests += b"".join(entry[ID_SIZE:] for entry in entries)

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded, content, files = True, b"", sorted(self.folder.glob("*.memo"))
        for file in files:
            try:
                data = file.read_bytes()
            except OSError:
                continue
            if len(data) % ENTRY_SIZE == 4 and zlib.crc32(data[4:]) == int.from_bytes(data[:4], "little"):
                content += data[4:]
        entries = list(dict.fromkeys(content[i : i + ENTRY_SIZE] for i in range(0, len(content), ENTRY_SIZE)))
        if entries:
            self._add(entries)
        if len(files) > MAX_MEMOS:
            try:
                self._write(b"".join(entries))
                for file in files:
                    file.unlink(missing_ok=True)
            except OSError:
                return  # the many small files stay valid

    def _write(self, entries: bytes) -> None:
        write_new_file(self.folder, ".memo", zlib.crc32(entries).to_bytes(4, "little") + entries)


def _identity(source: Any) -> bytes:
    """Return 16 bytes for a file's path, size, times and inode; for a slice of a file, for its place too."""
    place = (source.offset, source.size) if isinstance(source, Slice) else ()
    path = source.path if isinstance(source, Slice) else source
    try:
        info = os.stat(path)
    except OSError as error:
        raise MediaError(f"{name_of(source)}: {error.strerror}: check the path") from error
    identity = (os.path.abspath(path), info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, *place)
    return hashlib.blake2b(repr(identity).encode(errors="surrogatepass"), digest_size=ID_SIZE).digest()


def _digest(source: Any) -> bytes:
    """Return the sha256 of a file's content. Raises MediaError."""
    digest = hashlib.sha256(b"file\0")
    try:
        with open_binary(source) as stream:
            while part := stream.read(READ_SIZE):
                digest.update(part)
    except OSError as error:
        raise MediaError(f"{name_of(source)}: {error.strerror}: check the path") from error
    return digest.digest()
