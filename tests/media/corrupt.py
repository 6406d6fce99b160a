"""Thousands of broken files from a seed: cut, with changed bytes, or with absurd numbers in the header."""

from __future__ import annotations

import math
import random
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.media.originals import Original, originals, sealed_ogg

ABSURD = (0, 1, -1, 0xFFFF, 0x7FFFFFFF, 0x80000000)
ABSURD_FLOATS = (0.0, -1.0, 1e9, 1e300, math.inf, math.nan)

# By a file's first bytes: names in the header, the places of numbers behind each, and their length (8: a float).
RIFF = tuple(
    (mark, (0, 4, 8, 16), 4)
    for mark in (
        b"avih",
        b"strh",
        b"strf",
        b"movi",
        b"idx1",
        b"fmt ",
        b"data",
        b"fact",
        b"VP8X",
        b"VP8 ",
        b"VP8L",
        b"ANIM",
        b"ANMF",
    )
)
MARKS = {
    b"RIFF": RIFF,
    b"FORM": ((b"COMM", (0, 4, 6, 12, 16), 4), (b"SSND", (0, 4), 4)),
    b"caff": ((b"desc", (8, 24, 28, 32), 4), (b"desc", (8,), 8)),
    b"fLaC": ((b"fLaC", (0, 4, 12, 14, 18), 4),),
    b"ftyp": tuple(
        (mark, (-8, 0, 4, 8, 12, 16), 4)
        for mark in (b"mdhd", b"mvhd", b"stts", b"stsz", b"stsd", b"stco", b"ispe", b"iloc", b"esds", b"alac")
    ),
    b"\x1aE\xdf\xa3": (
        (b"\xb0\x81", (0,), 1),
        (b"\xba\x81", (0,), 1),
        (b"\x44\x89\x88", (0,), 8),
        (b"\xb5\x88", (0,), 8),
        (b"\x2a\xd7\xb1\x83", (0,), 3),
        (b"\x1f\x43\xb6\x75", (0,), 4),
    ),
    b"\x89PNG": tuple((mark, (-4, 0, 4, 8, 12), 4) for mark in (b"acTL", b"fcTL", b"fdAT", b"IDAT", b"PLTE")),
}


@dataclass(frozen=True)
class Case:
    """A broken file. ``name``: number, original, damage and suffix; ``modality``: to decode it as."""

    name: str
    modality: str
    data: bytes


def cases(seed: int = 0) -> list[Case]:
    """Return all cases, distinct in content or modality, in an order drawn from the seed."""
    rng, files, seen, found = random.Random(seed), originals(), set(), []
    for file in files:
        own = random.Random(f"{seed}/{file.name}")
        for damage, modality, suffix, data in _damages(file, files, own):
            if (data, modality, suffix) not in seen:
                seen.add((data, modality, suffix))
                found.append((file.name, damage, modality, suffix, data))
    rng.shuffle(found)
    return [
        Case(f"{number:04}-{name.replace('.', '-')}-{damage}{suffix}", modality, data)
        for number, (name, damage, modality, suffix, data) in enumerate(found)
    ]


Damage = tuple[str, str, str, bytes]  # name, modality to decode as, suffix, content


def _damages(file: Original, files: list[Original], rng: random.Random) -> Iterator[Damage]:
    for damage, data in (*_bytes(file.data, rng), *_replace_header_numbers(file, rng)):
        yield damage, file.modality, file.suffix, data
    others = sorted({f.modality for f in files} - {file.modality})
    for modality in others:
        yield f"as-{modality}", modality, file.suffix, file.data
    yield "misnamed", file.modality, rng.choice(files).suffix, file.data
    yield "misnamed-raw", file.modality, ".raw", file.data
    other = rng.choice(files)
    yield f"then-{other.name.replace('.', '-')}", file.modality, file.suffix, file.data + other.data
    yield f"after-{other.name.replace('.', '-')}", file.modality, file.suffix, other.data + file.data


def _bytes(data: bytes, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield damage that needs no knowledge of the format."""
    size = len(data)
    for keep in (0, 1, 3, 8, 12, 16, 32, 64, 128, 256):
        yield f"first-{keep}", data[:keep]
    for share in (0.1, 0.25, 0.5, 0.75, 0.9, 0.99):
        yield f"cut-{share}", data[: int(size * share)]
    for missing in (1, 2, 12):
        yield f"without-last-{missing}", data[:-missing]
    for number in range(3):
        yield f"bit-{number}", _change_bytes(data, 1, size, rng)
        yield f"bit-in-head-{number}", _change_bytes(data, 1, min(size, 96), rng)
        yield f"bits-10-{number}", _change_bytes(data, 10, size, rng)
        yield f"bits-1%-{number}", _change_bytes(data, max(1, size // 100), size, rng)
    block = max(4, size // 8)
    for place, at in (("start", 0), ("head", min(size // 4, 16)), ("middle", size // 2), ("end", size - block)):
        for kind, fill in (("zeros", bytes(block)), ("random", rng.randbytes(block))):
            yield f"{kind}-{place}", data[:at] + fill + data[at + block :]
    yield "all-zeros", bytes(size)
    yield "all-random", rng.randbytes(size)
    first, second = sorted(rng.sample(range(size), 2))
    yield "removed", data[:first] + data[second:]
    yield "doubled", data[:second] + data[first:]
    yield "swapped", data[second:] + data[first:second] + data[:first]
    yield "twice", data + data
    yield "byte-before", b"\0" + data
    yield "garbage-before", rng.randbytes(300) + data
    for kind, tail in (("byte", b"\xff"), ("zeros", bytes(500)), ("garbage", rng.randbytes(1000))):
        yield f"{kind}-behind", data + tail


def _change_bytes(data: bytes, bits: int, within: int, rng: random.Random) -> bytes:
    broken = bytearray(data)
    for _ in range(bits):
        broken[rng.randrange(within)] ^= 1 << rng.randrange(8)
    return bytes(broken)


def _replace_header_numbers(file: Original, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield files with absurd numbers in the header, and right checksums of PNG and Ogg."""
    fix = (
        _fix_png_checksums
        if file.data.startswith(b"\x89PNG")
        else sealed_ogg
        if file.data.startswith(b"OggS")
        else None
    )
    for start, size in _find_numbers(file):
        values: Sequence[float] = ABSURD_FLOATS if size == 8 else ABSURD
        for value in values if fix is sealed_ogg else rng.sample(values, 3):  # 0 in an Ogg once crashed libsndfile
            if isinstance(value, int):
                new = (value & (1 << 8 * size) - 1).to_bytes(size, rng.choice(("big", "little")))
            else:
                new = struct.pack(">d", value)
            broken = file.data[:start] + new + file.data[start + size :]
            yield f"field-{start}-{new.hex()}", fix(broken) if fix else broken
    for number in range(12 if fix else 0):  # with a right checksum the decoder itself reads the damage
        yield f"sealed-bits-{number}", fix(_change_bytes(file.data, rng.choice((1, 3, 10)), len(file.data), rng))


def _find_numbers(file: Original) -> list[tuple[int, int]]:
    """Return start and length of up to 20 numbers of the header, in the first and last 4096 bytes of the file."""
    data = file.data
    found: dict[int, int] = {}
    ends = ((0, 4096), (max(len(data) - 4096, 0), len(data)))
    kinds = ("%d",) if data.startswith((b"P6", b"\x93NUMPY")) else (">I", "<I", ">H", "<H")
    for field in file.fields:
        for kind in kinds:
            if kind == "%d" or field < 65536 or kind[1] == "I":
                number = b"%d" % field if kind == "%d" else struct.pack(kind, field)
                found.update((at, len(number)) for at in _all(number, data, ends))
        if data[8:12] == b"WEBP":  # 24 bits, one less
            found.update((at, 3) for at in _all(struct.pack("<I", field - 1)[:3], data, ends))
    places = sorted(found.items())[:10]
    for mark, offsets, size in MARKS.get(data[4:8] if data[4:8] == b"ftyp" else data[:4], ()):
        places += [(at + len(mark) + offset, size) for at in _all(mark, data, ends)[:1] for offset in offsets]
    return places


def _all(pattern: bytes, data: bytes, ends: tuple[tuple[int, int], ...]) -> list[int]:
    found = []
    for start, stop in ends:
        at = data.find(pattern, start, stop)
        while at >= 0:
            found.append(at)
            at = data.find(pattern, at + 1, stop)
    return found


def _fix_png_checksums(data: bytes) -> bytes:
    """Return the PNG with the right checksum in each chunk."""
    out, at = data[:8], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 4 : at + 8 + size]
        if at + 12 + size > len(data):
            break
        out += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + size
    return out + data[at:]
