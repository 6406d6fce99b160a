import gc
import io
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from mmcl_fast.errors import ConfigError, MediaError
from mmcl_fast.media import VisualSpec, check, decode
from mmcl_fast.media.readers.image import pillow_image
from mmcl_fast.media.readers.image import pillow_memory as arrow
from tests.media.files import BLUE, GREEN, RED, WHITE, corners, jpeg, plain, png16, quarters


def save(image: Image.Image, kind: str, **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_are_exact(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    got = decode(save(Image.fromarray(pixels), kind, **options), "image", plain(size=8))
    assert got.shape == (1, 3, 8, 8) and got.dtype == torch.float32
    assert np.array_equal((got[0] * 255).round().byte().permute(1, 2, 0).numpy(), pixels)


def test_normalised_by_mean_and_std():
    spec = VisualSpec(size=4, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    got = decode(save(Image.new("RGB", (4, 4), (51, 102, 255)), "PNG"), "image", spec)
    want = [(0.2 - 0.1) / 0.5, (0.4 - 0.2) / 0.25, (1 - 0.3) / 2]
    assert torch.allclose(got.mean((0, 2, 3)), torch.tensor(want), atol=1e-6)


@pytest.mark.parametrize(
    "tag, move",
    [
        (1, None),
        (2, "FLIP_LEFT_RIGHT"),
        (3, "ROTATE_180"),
        (4, "FLIP_TOP_BOTTOM"),
        (5, "TRANSPOSE"),
        (6, "ROTATE_90"),
        (7, "TRANSVERSE"),
        (8, "ROTATE_270"),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "TIFF", "WEBP", "AVIF"])
def test_exif_orientation(tag, move, kind):
    """The stored image is turned so that its tag undoes the turn."""
    stored = quarters() if move is None else quarters().transpose(getattr(Image.Transpose, move))
    exif = Image.Exif()
    exif[0x0112] = tag
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}, "MPO": {"quality": 95}}
    data = jpeg(stored, exif=exif) if kind == "JPEG" else save(stored, kind, exif=exif, **options.get(kind, {}))
    got = corners(decode(data, "image", plain(size=16)))
    assert np.abs(np.array(got) - np.array([RED, GREEN, BLUE, WHITE])).max() <= 3


def test_palette_grey_and_bilevel():
    palette = decode(save(quarters().quantize(4), "PNG"), "image", plain(size=16))
    assert corners(palette) == [RED, GREEN, BLUE, WHITE]
    grey = decode(save(Image.new("L", (9, 9), 128), "PNG"), "image", plain())
    assert torch.allclose(grey, torch.full_like(grey, 128 / 255))
    bilevel = decode(save(Image.new("1", (9, 9), 1), "PNG"), "image", plain())
    assert torch.allclose(bilevel, torch.ones_like(bilevel))


def test_cmyk():
    got = decode(jpeg(Image.new("CMYK", (32, 32), (0, 255, 255, 0))), "image", plain())
    assert got[0, 0].min() > 0.95 and got[0, 1:].max() < 0.05


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_alpha_on_white(mode):
    if mode == "RGBA":
        data = save(Image.new("RGBA", (8, 8), (255, 0, 0, 128)), "PNG")
    elif mode == "LA":
        data = save(Image.new("LA", (8, 8), (0, 128)), "PNG")
    else:
        data = save(Image.new("P", (8, 8), 0), "PNG", transparency=0)
    red, green = decode(data, "image", plain())[0, :2, 4, 4].tolist()
    want = {"RGBA": (1.0, 127 / 255), "LA": (127 / 255,) * 2, "P": (1.0, 1.0)}[mode]
    assert (red, green) == pytest.approx(want, abs=1.5 / 255)


def test_sixteen_bit_grey_keeps_its_low_byte():
    pixels = (np.arange(64, dtype=np.uint16) + 30000).reshape(8, 8)
    got = decode(save(Image.fromarray(pixels), "PNG"), "image", plain())
    assert np.array_equal((got[0, 0] * 65535).round().numpy().astype(np.uint16), pixels)
    assert torch.equal(got[0, 0], got[0, 2])


def test_colour_of_16_bits_a_channel_keeps_its_low_byte():
    pixels = np.random.default_rng(1).integers(0, 65536, (8, 8, 3), dtype=np.uint16)
    got = decode(png16(pixels, "rgb48"), "image", plain())
    assert np.array_equal((got[0] * 65535).round().permute(1, 2, 0).numpy().astype(np.uint16), pixels)
    clear = np.zeros((8, 8, 4), np.uint16)
    assert torch.allclose(decode(png16(clear, "rgba64"), "image", plain()), torch.ones(1, 3, 8, 8))


def test_resize_of_both_kinds():
    wide = Image.new("RGB", (96, 32), "black")
    wide.paste("white", (32, 0, 64, 32))
    squash = decode(save(wide, "PNG"), "image", plain(size=32))[0, 0, 16]
    assert squash[4] == 0 and squash[16] == 1 and squash[28] == 0
    crop = decode(save(wide, "PNG"), "image", plain(size=32, resize="crop"))
    assert crop.min() == 1


@pytest.mark.parametrize("side", [(300, 200), (201, 333)])
@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_crop_is_shortest_edge_then_centre(side, method):
    """The crop equals CLIPImageProcessor's steps within 4 of 255; at the edges the neighbours differ."""
    noise = np.random.default_rng(2).integers(0, 256, (side[1] // 4, side[0] // 4, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize(side, Image.Resampling.BICUBIC)
    size = 64
    scale = size / min(side)
    resized = image.resize(
        (int(side[0] * scale + 1e-9), int(side[1] * scale + 1e-9)), getattr(Image.Resampling, method.upper())
    )
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    want = np.asarray(resized.crop((left, top, left + size, top + size)), np.float32)
    got = decode(save(image, "PNG"), "image", plain(size=size, resize="crop", interpolation=method))
    gap = np.abs(got[0].permute(1, 2, 0).numpy() * 255 - want)
    assert gap[4:-4, 4:-4].max() <= 4 and gap.mean() < 1


def test_downscale_is_antialiased():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    for data in (save(Image.fromarray(stripes), "PNG"), jpeg(Image.fromarray(stripes))):
        got = decode(data, "image", plain(size=32))
        assert (got - 0.5).abs().max() < 0.05


def test_jpeg_draft_stays_close_to_the_full_decode():
    yy, xx = np.mgrid[:1024, :1024] / 1024
    smooth = Image.fromarray((np.stack((xx, yy, (np.sin(20 * xx) + 1) / 2), -1) * 255).astype(np.uint8))
    data = jpeg(smooth)
    full = np.asarray(Image.open(io.BytesIO(data)).resize((64, 64), Image.Resampling.BILINEAR), np.float32)
    got = decode(data, "image", plain(size=64))[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(got - full).max() <= 4


def photo(width: int, height: int) -> Image.Image:
    """Return smooth noise of full contrast."""
    noise = np.random.default_rng(3).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_resize_is_that_of_pillow(kind, method):
    data = save(photo(332, 252), kind)
    want = Image.open(io.BytesIO(data)).resize((64, 64), getattr(Image.Resampling, method.upper()))
    got = decode(data, "image", plain(size=64, interpolation=method))[0].permute(1, 2, 0) * 255
    gap = (got - torch.from_numpy(np.array(want))).abs()
    assert gap.max() <= 1.01 and gap.mean() < 0.05


def test_a_picture_in_several_blocks_of_memory():
    image = photo(5000, 1000)
    got = decode(save(image, "BMP"), "image", plain(size=32))[0].permute(1, 2, 0) * 255
    assert arrow.view_pixels(image).shape[0] == 3
    assert (got - torch.from_numpy(np.array(image.resize((32, 32), Image.Resampling.BILINEAR)))).abs().max() <= 1.01


def test_planes_outlive_their_picture():
    image = photo(64, 48)
    want, got = np.array(image), arrow.view_pixels(image)
    del image
    gc.collect()
    assert Image.new("RGB", (64, 48)).getpixel((0, 0)) == (0, 0, 0)  # would reuse the memory if it were free
    assert np.array_equal(got[:3].permute(1, 2, 0).numpy(), want)


def test_the_fast_png_decoder_is_exact(monkeypatch):
    data = save(photo(64, 48), "PNG")
    assert pillow_image._decode_plain_png(data, Image.open(io.BytesIO(data))).shape == (3, 48, 64)
    fast = decode(data, "image", plain(size=32))
    monkeypatch.setattr(pillow_image, "_decode_plain_png", lambda *_: None)
    assert torch.equal(decode(data, "image", plain(size=32)), fast)


@pytest.mark.parametrize("place", [45, 60, 500, 3000, -20, -14, -6])
def test_a_damaged_png_is_refused(place):
    data = save(photo(64, 48), "PNG")
    flipped = data[:place] + bytes([data[place] ^ 64]) + data[place:][1:]
    for bad in (data[:place], flipped):
        try:
            Image.open(io.BytesIO(bad)).load()
        except (OSError, SyntaxError, ValueError):
            with pytest.raises(MediaError):
                decode(bad, "image", plain(size=32))
        else:
            assert place in (-20, -14, -6)  # chunks behind the pixels


def test_a_jpeg_of_12_bits_is_named():
    data = bytearray(jpeg(quarters()))
    data[data.index(b"\xff\xc0") + 4] = 12
    for work in (check, decode):
        with pytest.raises(MediaError, match="a JPEG of 12 bits a channel: save it with 8, or as PNG of 16"):
            work(bytes(data), "image")


@pytest.mark.parametrize("kind, samples", [("rgb48le", 3), ("rgba64le", 4)])
def test_jpeg_2000_of_16_bits_in_colour(kind, samples):
    """Pillow reads 8 of the 16 bits, which are right."""
    y, x = np.mgrid[:16, :16] * 4096
    values = np.stack([x, y, (x + y) // 2, np.full_like(x, 51400)][:samples], -1).astype(np.uint16)
    codec = av.CodecContext.create("jpeg2000", "w")
    codec.width = codec.height = 16
    codec.pix_fmt, codec.time_base, codec.options = kind, Fraction(1), {"pred": "1"}
    packets = [*codec.encode(av.VideoFrame.from_ndarray(values, format=kind)), *codec.encode(None)]
    got = decode(b"".join(map(bytes, packets)), "image", plain(size=16))[0].permute(1, 2, 0).numpy()
    unit = values / 65535
    want = unit if samples == 3 else unit[..., :3] * unit[..., 3:] + 1 - unit[..., 3:]
    assert np.abs(got - want).max() <= 2 / 255


def test_absurd_sizes_are_refused():
    data = save(Image.new("1", (2000, 1000)), "PNG")
    with pytest.raises(MediaError, match="2000 x 1000 pixels, the limit is 1000000: .*max_pixels"):
        decode(data, "image", plain(max_pixels=1_000_000))
    bomb = bytearray(save(Image.new("1", (8, 8)), "PNG"))
    bomb[16:24] = (60000).to_bytes(4, "big") * 2
    with pytest.raises(MediaError):
        decode(bytes(bomb), "image")


def test_a_float_picture_is_not_an_image():
    with pytest.raises(MediaError, match="floats of 32 bits has no fixed white: save it"):
        decode(save(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"), "image")


@pytest.mark.parametrize(
    "values",
    [
        {"size": 0},
        {"resize": "fill"},
        {"std": (1, 0, 1)},
        {"frames": 4},
        {"f_min": 9000.0},
        {"modality": "smell"},
        {"depth_range": (5, 1)},
        {"window_policy": "loop"},
    ],
)
def test_specs_refuse_nonsense(values):
    with pytest.raises(ConfigError):
        VisualSpec(**values)
