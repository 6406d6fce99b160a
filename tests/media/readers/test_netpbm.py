"""PBM, PGM, PPM, PAM and PFM: images on white, and depth maps as stored."""

import io

import numpy as np
import pytest
import torch

from mmcl_fast.errors import MediaError
from mmcl_fast.media import check, decode, sniff
from mmcl_fast.media.readers.depth.depth_files import read_plane
from mmcl_fast.media.readers.image import netpbm
from tests.media.files import plain

SIDE = 12
RNG = np.random.default_rng(7)


def pnm(kind: int, values: np.ndarray, largest: int, comment: bytes = b"") -> bytes:
    """Return a file in digits (kinds 1, 2, 3) or bytes (4, 5, 6) of ``values`` ``[H, W]`` or ``[H, W, 3]``."""
    height, width = values.shape[:2]
    head = b"P%d\n%s%d %d\n" % (kind, comment, width, height)
    if kind not in (1, 4):
        head += b"%d\n" % largest
    if kind == 1:
        return head + b"\n".join(b"".join(b"%d" % value for value in row) for row in values.tolist())
    if kind in (2, 3):
        return head + b" ".join(b"%d" % value for value in values.reshape(-1).tolist())
    if kind == 4:
        return head + np.packbits(values.astype(np.uint8), axis=1).tobytes()
    return head + values.astype(">u2" if largest > 255 else np.uint8).tobytes()


def pam(values: np.ndarray, largest: int, kind: str) -> bytes:
    height, width, depth = values.shape
    head = f"P7\nWIDTH {width}\nHEIGHT {height}\n# made\nDEPTH {depth}\nMAXVAL {largest}\n"
    if kind:
        head += f"TUPLTYPE {kind}\n"
    return head.encode() + b"ENDHDR\n" + values.astype(">u2" if largest > 255 else np.uint8).tobytes()


def pfm(values: np.ndarray, order: str = "<", scale: float = 1.0) -> bytes:
    """Return a PFM file, which stores the bottom row first."""
    kind = "PF" if values.ndim == 3 else "Pf"
    sign = -1 if order == "<" else 1
    head = f"{kind}\n{values.shape[1]} {values.shape[0]}\n{sign * scale}\n"
    return head.encode() + values[::-1].astype(f"{order}f4").tobytes()


def shown(data: bytes) -> np.ndarray:
    check(data, "image", plain(size=SIDE))
    return decode(data, "image", plain(size=SIDE))[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("largest", [1, 3, 15, 100, 255, 256, 1000, 4095, 10000, 65534, 65535])
@pytest.mark.parametrize("kind", [2, 3, 5, 6])
@pytest.mark.parametrize("comment", [b"", b"# 7 7 7\n"])
def test_pictures_of_any_largest_value(kind, largest, comment):
    shape = (SIDE, SIDE, 3) if kind in (3, 6) else (SIDE, SIDE)
    values = RNG.integers(0, largest + 1, shape)
    want = (values if values.ndim == 3 else values[..., None].repeat(3, 2)) / largest
    gap = np.abs(shown(pnm(kind, values, largest, comment)) - want).max()
    assert gap <= (0.51 / 255 if largest <= 255 else 1 / 65535)


@pytest.mark.parametrize("kind", [1, 4])
@pytest.mark.parametrize("width", [SIDE, SIDE + 1])
def test_one_is_black_in_a_bitmap(kind, width):
    values = RNG.integers(0, 2, (width, width))
    got = decode(pnm(kind, values, 1), "image", plain(size=width))[0, 0]
    assert torch.equal(got, torch.from_numpy(1.0 - values).float())


@pytest.mark.parametrize("largest", [1, 255, 1023, 65535])
@pytest.mark.parametrize(
    "kind, depth",
    [("GRAYSCALE", 1), ("GRAYSCALE_ALPHA", 2), ("RGB", 3), ("RGB_ALPHA", 4), ("", 1), ("", 2), ("", 3), ("", 4)],
)
def test_pam(kind, depth, largest):
    values = RNG.integers(0, largest + 1, (SIDE, SIDE, depth))
    unit = values / largest
    if depth in (2, 4):
        unit = unit[..., :-1] * unit[..., -1:] + 1 - unit[..., -1:]
    gap = np.abs(shown(pam(values, largest, kind)) - unit).max()
    assert gap <= (0.51 / 255 if largest <= 255 else 1 / 65535)


def test_one_is_white_in_a_pam_of_black_and_white():
    values = RNG.integers(0, 2, (SIDE, SIDE, 1))
    assert np.array_equal(shown(pam(values, 1, "BLACKANDWHITE")), values.repeat(3, 2))


@pytest.mark.parametrize("largest", [256, 1000, 4095, 10000, 65535])
@pytest.mark.parametrize("kind", [2, 5, 7])
def test_depth_keeps_its_numbers(kind, largest):
    values = RNG.integers(0, largest + 1, (SIDE, SIDE))
    values[0, 0] = largest
    data = pam(values[..., None], largest, "GRAYSCALE") if kind == 7 else pnm(kind, values, largest)
    check(data, "depth")
    assert np.array_equal(read_plane(data, plain("depth")), values)


def test_depth_in_millimetres_whose_largest_value_is_invalid():
    values = np.full((SIDE, SIDE), 2000)
    values[:4] = 10000
    spec = plain("depth", size=SIDE, depth_range=(1.0, 20.0), depth_invalid=10000)
    got = decode(pnm(5, values, 10000), "depth", spec)[0, 0]
    assert (got[:4] == 0).all()
    assert torch.allclose(got[4:], torch.full((8, SIDE), (1 / 2 - 1 / 20) / (1 - 1 / 20)), atol=1e-6)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.003922])
def test_pfm_is_upright_and_not_scaled(order, scale):
    values = RNG.uniform(1, 9, (SIDE, SIDE + 3)).astype(np.float32)
    values[2, 3] = np.inf  # Middlebury's mark of unknown values
    data = pfm(values, order, scale)
    check(data, "depth")
    assert np.array_equal(read_plane(data, plain("depth")), values)
    spec = plain("depth", size=SIDE + 3, depth_kind="disparity")
    tall = pfm(np.pad(values, ((0, 3), (0, 0)), mode="edge"), order)
    assert decode(tall, "depth", spec)[0, 0, 2, 3] == 0


def test_a_disparity_of_8_bits_may_be_a_pgm():
    values = RNG.integers(0, 256, (SIDE, SIDE))
    assert np.array_equal(read_plane(pnm(5, values, 255), plain("depth", depth_kind="disparity")), values)


@pytest.mark.parametrize(
    "data, kind",
    [
        (pnm(5, np.ones((4, 4)), 255), "image"),
        (pnm(5, np.ones((4, 4)), 10000), "depth"),
        (pnm(2, np.ones((4, 4), int), 10000), "depth"),
        (pnm(1, np.ones((4, 4), int), 1), "image"),
        (pnm(6, np.ones((4, 4, 3)), 10000), "image"),
        (pam(np.full((4, 4, 1), 65), 65535, "GRAYSCALE"), "depth"),
        (pam(np.full((4, 4, 4), 65), 255, "RGB_ALPHA"), "image"),
        (pfm(np.ones((4, 4))), "depth"),
        (b"P5 and P7 are the largest of their kind.", "text"),
        (b"P7\nWIDTH is what it lacks\n", "text"),
    ],
)
def test_what_a_file_is(data, kind):
    assert sniff(data) == kind


@pytest.mark.parametrize("end", [b"\n", b" ", b"\r\n"])
@pytest.mark.parametrize("first", [b"\n", b"\r", b"\0"])
def test_line_ends_before_the_samples(end, first):
    """One byte of white space ends a header, or two on Windows. The first sample may look like white space."""
    body = first + bytes(range(200, 215))
    for kind, largest, modality, dtype in ((b"P5", b"65535", "depth", ">u2"), (b"P6", b"255", "image", "u1")):
        size = b"4 2" if kind == b"P5" else b"1 5"
        want = body[:15] if kind == b"P6" else body
        data = kind + b"\n" + size + b"\n" + largest + end + want
        file = io.BytesIO(data)
        header = netpbm.read_header(file, 100)
        assert header is not None and sniff(data) == modality
        assert netpbm.read_samples(file, header).astype(dtype).tobytes() == want


COUNT = np.arange(9).reshape(3, 3)


@pytest.mark.parametrize(
    "data, modality, words",
    [
        (pnm(5, COUNT, 8)[:-1], "image", "P5 file that ends after 8 of 9 numbers: cut short"),
        (pnm(5, COUNT * 100, 800)[:-3], "depth", "P5 file that ends after 7 of 9 numbers: cut short"),
        (pnm(2, COUNT * 100, 800)[:-4], "depth", "P2 file that ends after 8 of 9 numbers: cut short"),
        (pfm(COUNT.astype(np.float32))[:-1], "depth", "Pf file that ends after 8 of 9 numbers: cut short"),
        (pnm(4, COUNT % 2, 1)[:-1], "image", "P4 file that ends after .* of 9 numbers: cut short"),
        (pnm(5, COUNT, 7), "image", "holds 8, above its largest value 7: save it anew"),
        (pnm(2, COUNT * 1000, 7999), "depth", "holds 8000, above its largest value 7999: save it anew"),
        (pnm(2, COUNT, 8) + b" x", "image", None),  # bytes behind the numbers do not count
        (pnm(2, COUNT, 8)[:-3] + b"x 8", "image", "holds more than numbers: save it anew"),
        (pnm(2, COUNT * 10000, 80000), "image", "cannot"),
        (pfm(COUNT.astype(np.float32)), "image", "an image of floats has no fixed white: save it"),
        (pfm(np.ones((3, 3, 3), np.float32)), "depth", "3 channels, not a depth map: use 16-bit grey PNG"),
        (pnm(6, np.ones((3, 3, 3), int), 999), "depth", "3 channels, not a depth map: use 16-bit grey PNG"),
        (pnm(5, COUNT, 255), "depth", "8 bits, not a depth map: use 16-bit grey PNG"),
        (pam(np.ones((3, 3, 2), int), 9, "GRAYSCALE"), "image", "PAM file of 2 channels called 'GRAYSCALE': save it"),
        (pnm(5, COUNT, 8).replace(b"3 3", b"9 9"), "image", "ends after 9 of 81 numbers"),
        (pnm(5, COUNT, 8).replace(b"3 3", b"30000 30000"), "image", "the limit is 100000000: .*raise max_pixels"),
    ],
)
def test_what_is_refused(data, modality, words):
    for work in (check, decode):
        if words is None:
            work(data, modality, plain(modality))
        else:
            with pytest.raises(MediaError, match=words):
                work(data, modality, plain(modality))
