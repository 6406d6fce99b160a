import io

import numpy as np
import pytest
import torch
from PIL import Image

from mmcl_fast.errors import MediaError
from mmcl_fast.media import decode
from mmcl_fast.media.readers.depth.depth_to_image import to_metres
from tests.media.files import plain

FIXED = plain("depth", size=8, depth_range=(1.0, 4.0))


def png(values: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(values).save(data, "PNG")
    return data.getvalue()


def test_fixed_range_is_the_formula():
    millimetres = np.full((8, 8), 2000, np.uint16)
    millimetres[:, :4] = 1000
    millimetres[:2] = 4000
    got = decode(png(millimetres), "depth", FIXED)
    assert got.shape == (1, 3, 8, 8) and torch.equal(got[0, 0], got[0, 1])
    assert got[0, 0, 5, 1] == 1 and got[0, 0, 0, 0] == 0
    assert got[0, 0, 5, 6] == pytest.approx((1 / 2 - 1 / 4) / (1 - 1 / 4), abs=1e-6)


def test_invalid_pixels_are_masked_and_do_not_bleed():
    values = np.full((64, 64), 1500, np.uint16)
    values[:, 30:] = 0
    got = decode(png(values), "depth", FIXED)[0, 0]
    want = (1 / 1.5 - 1 / 4) / (1 - 1 / 4)
    assert torch.allclose(got[:, :3], torch.full((8, 3), want), atol=1e-5)
    assert (got[:, 5:] == 0).all()
    assert (((got - want).abs() < 1e-5) | (got == 0)).all()  # nothing in between


def test_per_map_range_is_scale_free():
    values = np.random.default_rng(0).integers(1000, 5000, (32, 32)).astype(np.uint16)
    one, two = (decode(png(v), "depth", plain("depth", size=32)) for v in (values, values * 2))
    assert torch.allclose(one, two, atol=1e-5)
    assert one.min() == 0 and one.max() == 1
    near, far = values.argmin(), values.argmax()
    assert one[0, 0].flatten()[near] == 1 and one[0, 0].flatten()[far] == 0
    flat = decode(png(np.full((8, 8), 700, np.uint16)), "depth", plain("depth"))
    assert torch.equal(flat, torch.full((1, 3, 8, 8), 0.5))


def test_scale_and_float_formats_agree(tmp_path):
    depth = np.random.default_rng(1).uniform(1, 4, (8, 8)).astype(np.float32)
    depth = np.round(depth, 3)
    depth[0, 0] = 0
    want = decode(png((depth * 1000).round().astype(np.uint16)), "depth", FIXED)
    np.save(tmp_path / "a.npy", np.where(depth == 0, np.nan, depth))
    Image.fromarray(depth).save(tmp_path / "a.tiff")
    for name in ("a.npy", "a.tiff"):
        assert torch.allclose(decode(tmp_path / name, "depth", FIXED), want, atol=1e-4)
    half = plain("depth", size=8, depth_range=(1.0, 4.0), depth_scale=500.0)
    doubled = decode(png((depth * 500).round().astype(np.uint16)), "depth", half)
    assert torch.allclose(doubled, want, atol=2e-3)


def test_sixteen_bits_are_exact():
    values = np.arange(1, 65536, dtype=np.uint16)[:65280].reshape(255, 256)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(values)))), values)
    back = (to_metres(values, FIXED) * 1000).round().int()
    assert torch.equal(back, torch.from_numpy(values.astype(np.int32)))


def test_refusals(tmp_path):
    Image.new("L", (8, 8), 9).save(tmp_path / "grey.png")
    with pytest.raises(MediaError, match="grey.png: an image of mode L, not a depth map: use 16-bit"):
        decode(tmp_path / "grey.png", "depth")
    with pytest.raises(MediaError, match="no valid pixel"):
        decode(png(np.zeros((8, 8), np.uint16)), "depth")
    np.save(tmp_path / "cube.npy", np.ones((2, 3, 4), np.float32))
    with pytest.raises(MediaError, match=r"cube.npy: .*\[2, 3, 4\]"):
        decode(tmp_path / "cube.npy", "depth")
    np.save(tmp_path / "big.npy", np.ones((100, 100), np.float32))
    with pytest.raises(MediaError, match="max_pixels"):
        decode(tmp_path / "big.npy", "depth", plain("depth", max_pixels=100))
    np.save(tmp_path / "objects.npy", np.array([[{}]]), allow_pickle=True)
    with pytest.raises(MediaError, match="objects.npy"):
        decode(tmp_path / "objects.npy", "depth")


def test_disparity_is_normalised_as_it_is():
    values = np.full((10, 10), 30, np.uint16)
    values[:5] = 10
    values[5, :] = 20
    values[:, 9] = 0
    spec = plain("depth", size=10, depth_kind="disparity", depth_range=(1.0, 4.0))  # the range is of metres: not used
    got = decode(png(values), "depth", spec)[0, 0]
    # Quantiles 10 and 30: (10 - 10) / 20, (20 - 10) / 20, (30 - 10) / 20; 0 stays invalid.
    want = torch.tensor([0.0] * 5 + [0.5] + [1.0] * 4)[:, None].repeat(1, 10)
    want[:, 9] = 0
    assert torch.allclose(got, want, atol=1e-6)
    assert torch.equal(decode(png(values * 7), "depth", spec)[0, 0], got)
    assert torch.equal(decode(png(values.astype(np.uint8)), "depth", spec)[0, 0], got)  # 8 bits too
    # The same scene as depth in millimetres, 60000 / disparity.
    with np.errstate(divide="ignore"):
        depth = np.where(values > 0, 60000 / values, 0).astype(np.uint16)
    assert torch.allclose(decode(png(depth), "depth", plain("depth", size=10))[0, 0], got, atol=1e-6)


def test_a_stated_value_is_invalid(tmp_path):
    values = np.full((8, 8), 2000, np.uint16)
    values[:4] = 65535
    spec = plain("depth", size=8, depth_range=(1.0, 4.0), depth_invalid=65535)
    assert (decode(png(values), "depth", spec)[0, 0, :4] == 0).all()
    near = (1 / 65.535 - 1 / 100) / (1 - 1 / 100)
    wide = plain("depth", size=8, depth_range=(1.0, 100.0))
    assert decode(png(values), "depth", wide)[0, 0, 0, 0] == pytest.approx(near, abs=1e-6)


@pytest.mark.parametrize("dtype", ["<u1", "<u2", ">u2", "<i4", "<u4", "<i8", "<f2", "<f4", ">f4", "<f8"])
def test_types_of_npy(dtype):
    depth = np.array([[1, 2], [4, 0]] * 4).repeat(4, 1)
    values = depth if np.dtype(dtype).kind == "f" else depth * 50
    data = io.BytesIO()
    np.save(data, np.asfortranarray(values.astype(dtype)))
    spec = plain("depth", size=8, depth_range=(1.0, 4.0), depth_scale=50.0)
    got = decode(data.getvalue(), "depth", spec)[0, 0]
    assert torch.allclose(got[:2, ::4], torch.tensor([[1, 1 / 3], [0, 0]]), atol=1e-3)


@pytest.mark.parametrize("mode, dtype", [("I;16", np.uint16), ("I", np.int32), ("F", np.float32)])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_types_of_tiff(mode, dtype, compression):
    depth = np.array([[1, 2], [4, 0]] * 4).repeat(4, 1)
    data = io.BytesIO()
    picture = Image.fromarray((depth if mode == "F" else depth * 1000).astype(dtype))
    assert picture.mode == mode
    picture.save(data, "TIFF", compression=compression)
    got = decode(data.getvalue(), "depth", FIXED)[0, 0]
    assert torch.allclose(got[:2, ::4], torch.tensor([[1, 1 / 3], [0, 0]]), atol=1e-6)


def test_values_beyond_all_measure_are_invalid_not_infinite():
    for big in (1e-45, 1e-30, 1e30, 1e300):
        data = io.BytesIO()
        np.save(data, np.where(np.eye(8) > 0, big, 2.0))
        for kind in ("depth", "disparity"):
            got = decode(data.getvalue(), "depth", plain("depth", size=8, depth_kind=kind))[0, 0]
            assert (got.diagonal() == 0).all() and got.isfinite().all() and (got[0, 1:] == 0.5).all()


def npy(header: str, body: bytes = bytes(64)) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


@pytest.mark.parametrize(
    "header, part",
    [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (9000, 9000), }", "ends before its 9000 x 9000 numbers"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (90000, 90000), }", "max_pixels"),
        ("{'descr': '|V999999999', 'fortran_order': False, 'shape': (4, 4), }", "one plane of numbers"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4), }", "one plane of numbers"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (4, 4), }", "one plane of numbers"),
        ("{'descr': '<c8', 'fortran_order': False, 'shape': (4, 4), }", "one plane of numbers"),
        ("{'descr': __import__('os'), 'fortran_order': False, 'shape': (4, 4), }", "cannot be decoded"),
    ],
)
def test_npy_headers_that_lie(header, part):
    with pytest.raises(MediaError, match=part):
        decode(npy(header), "depth")
