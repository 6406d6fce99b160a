"""A shard of the feature cache: the trunk's output of a few hundred samples in one file that never changes.

Layout, little endian::

    magic                 8 bytes
    length, crc32         4 + 4 bytes, of the header
    header                JSON: the sizes, and a crc32 of the index and of the data
    keys                  [n, 16] uint8        the index
    starts                [n + 1] int64        the index
    query                 [n, Dq] float32      the data
    mask                  [T] bool             the data; only if the encoder returned a mask
    tokens                [T, d] bfloat16      the data

Each array begins at a multiple of 64. T is starts[n]. Sample i has the tokens from starts[i] to starts[i + 1].
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Union

import numpy as np

MAGIC = b"mmclshd1"
PREFIX = struct.Struct("<8sII")
ALIGN = 64
HEAD = 1 << 14  # bytes that are read first: mostly the header and the index

Buffer = Union[bytearray, mmap.mmap]


class Damaged(Exception):
    """A shard whose bytes are not the ones that were written."""


@dataclass(frozen=True)
class CachedSample:
    """The trunk's output for one sample.

    Attributes:
        key: 16 bytes.
        tokens: ``[N, d]`` int16, the bits of bfloat16.
        query: ``[Dq]`` float32.
        mask: ``[N]`` bool, or None.
    """

    key: bytes
    tokens: np.ndarray
    query: np.ndarray
    mask: np.ndarray | None

    @property
    def nbytes(self) -> int:
        """The bytes of tokens and query; the mask, which is small, does not count."""
        return self.tokens.nbytes + self.query.nbytes


def pack(samples: Sequence[CachedSample]) -> bytearray:
    """Return the bytes of a shard of one or more samples. All have one width, and all or none have a mask."""
    starts = np.cumsum([0, *(len(sample.tokens) for sample in samples)], dtype=np.int64)
    values = {
        "rows": len(samples),
        "items": int(starts[-1]),
        "width": samples[0].tokens.shape[1],
        "query": len(samples[0].query),
        "masked": samples[0].mask is not None,
    }
    empty = _header(values | {"index_crc": 0, "data_crc": 0})
    places, size = _layout(values, len(empty))
    buffer = bytearray(size)
    parts = _parts(buffer, values, places)
    parts["keys"][:] = np.frombuffer(b"".join(sample.key for sample in samples), np.uint8).reshape(-1, 16)
    parts["starts"][:] = starts
    np.stack([sample.query for sample in samples], out=parts["query"])
    np.concatenate([sample.tokens for sample in samples], out=parts["tokens"])
    if values["masked"]:
        np.concatenate([sample.mask for sample in samples if sample.mask is not None], out=parts["mask"])
    index_crc, data_crc = _checksums(buffer, places)
    header = _header(values | {"index_crc": index_crc, "data_crc": data_crc})
    buffer[: len(header)] = header
    return buffer


def _header(values: dict) -> bytes:
    """Return the bytes from the magic to the end of the JSON. Numbers are padded: no value changes the length."""
    text = json.dumps({k: v if isinstance(v, bool) else f"{v:020d}" for k, v in values.items()}).encode()
    return PREFIX.pack(MAGIC, len(text), zlib.crc32(text)) + text


def _layout(values: dict, start: int) -> tuple[dict[str, tuple[int, int]], int]:
    """Return offset and size in bytes of each array, and the size of the file."""
    rows, items = values["rows"], values["items"]
    sizes = {
        "keys": 16 * rows,
        "starts": 8 * (rows + 1),
        "query": 4 * rows * values["query"],
        "mask": items if values["masked"] else 0,
        "tokens": 2 * items * values["width"],
    }
    places = {}
    for name, size in sizes.items():
        start = -(-start // ALIGN) * ALIGN
        places[name] = start, size
        start += size
    return places, start


def _parts(buffer: Buffer, values: dict, places: dict[str, tuple[int, int]]) -> dict[str, np.ndarray]:
    """Return the arrays of a shard as views of its bytes."""
    kinds: dict[str, tuple[type, tuple[int, ...]]] = {
        "keys": (np.uint8, (-1, 16)),
        "starts": (np.int64, (-1,)),
        "query": (np.float32, (-1, values["query"])),
        "mask": (bool, (-1,)),
        "tokens": (np.int16, (-1, values["width"])),
    }
    return {
        name: np.frombuffer(buffer, kinds[name][0], size // np.dtype(kinds[name][0]).itemsize, offset).reshape(
            kinds[name][1]
        )
        for name, (offset, size) in places.items()
    }


def _checksums(buffer: Buffer, places: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """Return the crc32 of the index and of the data."""
    view = memoryview(buffer)
    index, data = (places[name][0] for name in ("keys", "query"))
    return zlib.crc32(view[index:data]), zlib.crc32(view[data:])


def _open_header(head: bytes, size: int) -> tuple[dict, dict[str, tuple[int, int]]]:
    """Read header and layout of a file of ``size`` bytes from its first bytes. Raises Damaged."""
    if len(head) < PREFIX.size:
        raise Damaged("truncated")
    magic, length, crc = PREFIX.unpack_from(head)
    text = head[PREFIX.size : PREFIX.size + length]
    if magic != MAGIC:
        raise Damaged("not a shard")
    if len(text) != length or zlib.crc32(text) != crc:
        raise Damaged("header and checksum differ")
    values = {k: v if isinstance(v, bool) else int(v) for k, v in json.loads(text).items()}
    places, expected = _layout(values, PREFIX.size + length)
    if expected != size:
        raise Damaged(f"{size} bytes instead of {expected}")
    return values, places


def read_keys(file: Path) -> np.ndarray:
    """Read the keys ``[n, 16]`` uint8 of a shard without its data. Raises Damaged, OSError."""
    with open(file, "rb") as stream:
        head, size = stream.read(HEAD), os.fstat(stream.fileno()).st_size
        values, places = _open_header(head, size)
        end = places["query"][0]
        head += stream.read(max(0, end - len(head)))
    index = head[places["keys"][0] : end]
    if zlib.crc32(index) != values["index_crc"]:
        raise Damaged("index and checksum differ")
    return np.frombuffer(index, np.uint8, 16 * values["rows"]).reshape(-1, 16)


class Shard:
    """An open shard: its arrays lie in a mapped file, or in memory if the file could not be written.

    Args:
        buffer: the bytes of the shard.
        verify: compare the checksums, which reads all bytes; ``Damaged`` if they differ.

    Attributes:
        starts, query, mask, tokens: the arrays of the module's layout; tokens as int16.
        common_length: N if all samples have the same number of tokens, else None.
        nbytes: size of the file.
    """

    def __init__(self, buffer: Buffer, *, verify: bool):
        self.nbytes = len(buffer)
        values, places = _open_header(bytes(memoryview(buffer)[:HEAD]), self.nbytes)
        if verify and _checksums(buffer, places) != (values["index_crc"], values["data_crc"]):
            raise Damaged("data and checksum differ")
        parts = _parts(buffer, values, places)
        self.starts, self.query, self.tokens = parts["starts"], parts["query"], parts["tokens"]
        self.mask = parts["mask"] if values["masked"] else None
        lengths = np.diff(self.starts)
        self.common_length = int(lengths[0]) if (lengths == lengths[0]).all() else None

    @classmethod
    def open(cls, file: Path, *, verify: bool) -> Shard:
        """Map a file into memory. Raises Damaged, OSError."""
        with open(file, "rb") as stream:
            if os.fstat(stream.fileno()).st_size < PREFIX.size:
                raise Damaged("truncated")
            return cls(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), verify=verify)
