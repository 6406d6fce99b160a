"""Files that are too large are refused before memory is used."""

import io
import struct
import subprocess
import sys
import zlib

import pytest

from mmcl_fast.errors import ConfigError, MediaError
from mmcl_fast.media import TextSpec, VisualSpec, check, decode, default_spec
from mmcl_fast.media.spec import adjust, spec_from_dict


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(side: int, bits: int = 8) -> bytes:
    """Return a PNG of ``side`` x ``side`` grey zeros, compressed by a factor of 1000."""
    total, block = side * (1 + side * bits // 8), 1 << 24
    packer = zlib.compressobj(9, wbits=-15)
    zeros = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)  # each such block stands for itself
    packer = zlib.compressobj(9, wbits=-15)
    rest = packer.compress(bytes(total % block)) + packer.flush()
    body = b"\x78\xda" + zeros * (total // block) + rest + struct.pack(">I", total % 65521 << 16 | 1)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">2I5B", side, side, bits, 0, 0, 0, 0))
        + png_chunk(b"IDAT", body)
        + png_chunk(b"IEND", b"")
    )


def tiff_bomb(side: int) -> bytes:
    """Return a TIFF with one strip of 2 bytes for ``side`` x ``side`` floats."""
    entries = [
        (256, 4, side),
        (257, 4, side),
        (258, 3, 32),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, side),
        (279, 4, 2),
        (339, 3, 3),
    ]
    return (
        b"II*\0"
        + struct.pack("<I", 10)
        + b"\1\2"
        + struct.pack("<H", len(entries))
        + b"".join(struct.pack("<2HII", tag, kind, 1, value) for tag, kind, value in entries)
        + bytes(4)
    )


def npy_bomb(side: int) -> bytes:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({side}, {side}), }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(99)


def test_bombs_fail_with_memory_flat(tmp_path):
    files = {
        "image-a.png": png_bomb(50_000),
        "depth-b.png": png_bomb(50_000, 16),
        "depth-c.tiff": tiff_bomb(60_000),
        "depth-d.npy": npy_bomb(70_000),
        "depth-e.npy": npy_bomb(9_000),
        "video-f.png": png_bomb(50_000),
        "image-g.png": png_bomb(12_000),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    assert zlib.decompress(png_bomb(5000)[41:-16]) == bytes(5000 * 5001)  # it is a valid one
    assert (tmp_path / "image-a.png").stat().st_size < 4_000_000  # 2.5 GB of pixels
    program = """
import pathlib, resource, sys
from mmcl_fast.errors import MediaError
from mmcl_fast.media import check, decode, sniff
files = sorted(pathlib.Path(sys.argv[1]).iterdir())
for file in files:  # load the decoders
    (file.parent / (file.name[:5] + "-small")).write_bytes(b"\\x89PNG broken")
    for work in (decode, check):
        try: work(file.parent / (file.name[:5] + "-small"), file.name[:5])
        except MediaError: pass
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for file in files:
    for work in (decode, check):
        try: work(file, file.name[:5]); print("nothing wrong")
        except MediaError as error: print(error)
    try: sniff(file)
    except MediaError: pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    *lines, grown = done.stdout.splitlines()
    assert len(lines) == 2 * len(files) and not any("nothing wrong" in line for line in lines), done.stdout
    for line in lines:
        assert "pixels" in line or "numbers" in line, line
    assert int(grown) < 60, f"{grown} MiB more"


def test_a_file_of_too_many_bytes_is_not_opened(tmp_path):
    with open(tmp_path / "a.txt", "wb") as file:
        file.truncate(1 << 33)  # a hole: no byte of it is on the disk
    for modality in ("image", "video", "audio", "depth", "text"):
        for work in (decode, check):
            with pytest.raises(MediaError, match="a.txt: 8589934592 bytes, the limit is .* raise max_bytes"):
                work(tmp_path / "a.txt", modality)
    (tmp_path / "b.txt").write_text("nine here")
    assert decode(tmp_path / "b.txt", "text", TextSpec(max_bytes=9)) == "nine here"
    with pytest.raises(MediaError, match="b.txt: 9 bytes, the limit is 8: "):
        decode(tmp_path / "b.txt", "text", TextSpec(max_bytes=8))


def test_what_the_user_says_is_laid_on_the_encoders_spec():
    spec = VisualSpec(modality="depth", size=64)
    settings = {"max_pixels": 5000, "depth_kind": "disparity", "max_chars": 9, "max_seconds": None}
    mine = adjust(spec, settings)
    assert (mine.max_pixels, mine.depth_kind, mine.size, mine.max_seconds) == (5000, "disparity", 64, 3600)
    assert adjust(spec, {}) == spec
    assert adjust(TextSpec(), settings).max_chars == 9
    for settings_, part in (
        ({"size": 1}, "media setting 'size': use one of depth_invalid"),
        ({"max_pixels": 0}, "max_pixels = 0"),
        ({"depth_kind": "near"}, "depth_kind = 'near'"),
    ):
        with pytest.raises(ConfigError, match=part):
            adjust(spec, settings_)
    assert spec_from_dict(mine.to_dict()) == mine
    data = io.BytesIO()
    from PIL import Image

    Image.new("RGB", (100, 51)).save(data, "PNG")
    with pytest.raises(MediaError, match="100 x 51 pixels, the limit is 5000"):
        decode(data.getvalue(), "image", adjust(default_spec("image"), settings))


def test_fingerprints_of_saved_encoders_stay():
    """A fingerprint contains a spec's repr or dict, where added fields are missing while at their defaults."""
    assert repr(VisualSpec()).endswith("max_pixels=100000000, max_seconds=3600.0)")
    assert list(VisualSpec().to_dict())[-2:] == ["max_pixels", "max_seconds"]
    assert repr(TextSpec()) == "TextSpec(modality='text', max_chars=2000)"
    assert TextSpec().to_dict() == {"modality": "text", "max_chars": 2000}
