import io

import numpy as np
import pytest
import torch
from PIL import Image

from mmcl_fast.errors import MediaError
from mmcl_fast.media import decode
from mmcl_fast.media.depth import metres
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
    back = (metres(values, FIXED) * 1000).round().int()
    assert torch.equal(back, torch.from_numpy(values.astype(np.int32)))


def test_refusals(tmp_path):
    Image.new("L", (8, 8), 9).save(tmp_path / "grey.png")
    with pytest.raises(MediaError, match="grey.png: a picture of mode L, not a depth map: use 16-bit"):
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
