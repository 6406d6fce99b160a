"""A shard of the trunk cache: the trunk's output of a few hundred samples in one file that never changes.

Layout, little endian: magic (8 bytes), length and crc32 of the header (4 + 4), the header as JSON; then, each from a
multiple of 64 on: keys ``[n, 16]`` uint8 and starts ``[n + 1]`` int64 (the index); query ``[n, Dq]`` float32, mask
``[T]`` bool (only where the encoder gave one) and tokens ``[T, d]`` bfloat16 (the data), T = starts[n]. Sample i has
the tokens starts[i] to starts[i + 1]. The header holds the sizes and a crc32 of the index and of the data.
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
HEAD = 1 << 14  # bytes read at once for an index

Buffer = Union[bytearray, mmap.mmap]


class Damaged(Exception):
    """A shard that is not what was written."""


@dataclass(frozen=True)
class Row:
    """One sample: key (16 bytes), tokens ``[N, d]`` as int16 (the bits of bfloat16), query ``[Dq]`` float32, mask
    ``[N]`` bool or None."""

    key: bytes
    tokens: np.ndarray
    query: np.ndarray
    mask: np.ndarray | None

    @property
    def nbytes(self) -> int:
        return self.tokens.nbytes + self.query.nbytes


def pack(rows: Sequence[Row]) -> bytearray:
    """The bytes of a shard of at least one row; all rows have one width and all or none a mask."""
    starts = np.cumsum([0, *(len(row.tokens) for row in rows)], dtype=np.int64)
    values = {
        "rows": len(rows),
        "items": int(starts[-1]),
        "width": rows[0].tokens.shape[1],
        "query": len(rows[0].query),
        "masked": rows[0].mask is not None,
    }
    empty = _header(values | {"index_crc": 0, "data_crc": 0})
    places, size = _layout(values, len(empty))
    buffer = bytearray(size)
    parts = _parts(buffer, values, places)
    parts["keys"][:] = np.frombuffer(b"".join(row.key for row in rows), np.uint8).reshape(-1, 16)
    parts["starts"][:] = starts
    np.stack([row.query for row in rows], out=parts["query"])
    np.concatenate([row.tokens for row in rows], out=parts["tokens"])
    if values["masked"]:
        np.concatenate([row.mask for row in rows if row.mask is not None], out=parts["mask"])
    index_crc, data_crc = _sums(buffer, places)
    header = _header(values | {"index_crc": index_crc, "data_crc": data_crc})
    buffer[: len(header)] = header
    return buffer


def _header(values: dict) -> bytes:
    """Magic to the end of the JSON. Numbers are padded, so that its length depends on no value."""
    text = json.dumps({k: v if isinstance(v, bool) else f"{v:020d}" for k, v in values.items()}).encode()
    return PREFIX.pack(MAGIC, len(text), zlib.crc32(text)) + text


def _layout(values: dict, start: int) -> tuple[dict[str, tuple[int, int]], int]:
    """Offset and size in bytes of each part, and of the whole."""
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


def _sums(buffer: Buffer, places: dict[str, tuple[int, int]]) -> tuple[int, int]:
    view = memoryview(buffer)
    index, data = (places[name][0] for name in ("keys", "query"))
    return zlib.crc32(view[index:data]), zlib.crc32(view[data:])


def _open_header(head: bytes, size: int) -> tuple[dict, dict[str, tuple[int, int]]]:
    """Header and layout of a file of ``size`` bytes from its first bytes. Raises Damaged."""
    if len(head) < PREFIX.size:
        raise Damaged("truncated")
    magic, length, crc = PREFIX.unpack_from(head)
    text = head[PREFIX.size : PREFIX.size + length]
    if magic != MAGIC:
        raise Damaged("not a shard")
    if len(text) != length or zlib.crc32(text) != crc:
        raise Damaged("header and checksum differ")
    values = {k: v if isinstance(v, bool) else int(v) for k, v in json.loads(text).items()}
    places, whole = _layout(values, PREFIX.size + length)
    if whole != size:
        raise Damaged(f"{size} bytes instead of {whole}")
    return values, places


def read_keys(file: Path) -> np.ndarray:
    """Keys ``[n, 16]`` uint8 of a shard, without reading its data. Raises Damaged, OSError."""
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
    """An open shard: its arrays lie in a mapped file, or in memory where it could not be written.

    Attributes:
        starts, query, mask, tokens: see the module; tokens as int16.
        nbytes: of the whole.
    """

    def __init__(self, buffer: Buffer, *, verify: bool):
        self.nbytes = len(buffer)
        values, places = _open_header(bytes(memoryview(buffer)[:HEAD]), self.nbytes)
        if verify and _sums(buffer, places) != (values["index_crc"], values["data_crc"]):
            raise Damaged("data and checksum differ")
        parts = _parts(buffer, values, places)
        self.starts, self.query, self.tokens = parts["starts"], parts["query"], parts["tokens"]
        self.mask = parts["mask"] if values["masked"] else None
        lengths = np.diff(self.starts)
        self.even = int(lengths[0]) if (lengths == lengths[0]).all() else None  # N, where all samples have the same

    @classmethod
    def open(cls, file: Path, *, verify: bool) -> Shard:
        """Map a file. Raises Damaged, OSError."""
        with open(file, "rb") as stream:
            if os.fstat(stream.fileno()).st_size < PREFIX.size:
                raise Damaged("truncated")
            return cls(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), verify=verify)
