"""The C++ kernels for audio and images agree with plain torch and Pillow, on every instruction set."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmcl_fast.errors import MediaError
from mmcl_fast.media import decode, default_spec
from mmcl_fast.media.dsp import cpp_kernels, mel, views
from mmcl_fast.media.dsp.resample import resample
from mmcl_fast.media.readers.audio import libsndfile as sound_file
from mmcl_fast.media.readers.image import jpeg, pillow_image

pytestmark = pytest.mark.skipif(cpp_kernels.kernels() is None, reason="mmcl_fast._C was not compiled")
SPEC = default_spec("audio")
SHAPES = [
    {},
    {"n_fft": 400, "mels": 64},
    {"n_fft": 480, "hop": 100, "mels": 40},
    {"n_fft": 250, "hop": 80, "mels": 32},
    {"n_fft": 512, "hop": 171, "mels": 80, "size": 160},
    {"n_fft": 2048, "hop": 512},
    {"n_fft": 6, "mels": 2},
]
RATES = [(44100, 16000), (8000, 16000), (22050, 16000), (96000, 8000), (16000, 44100), (44101, 16000), (16000, 1000)]


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + shape[-1]))


def photo(height: int, width: int) -> np.ndarray:
    """Return a smooth image with a hard edge."""
    y, x = np.mgrid[:height, :width]
    out = np.stack([127 + 120 * np.sin(x / 9 + c) * np.cos(y / 11 - c) for c in range(3)], -1)
    out[height // 3 :, width // 2 :] = 255 * (np.arange(3) == 1)
    return out.astype(np.uint8)


@pytest.fixture
def without_kernels(monkeypatch):
    """Run a function as if no kernel had been compiled."""

    def run(function, *args):
        with monkeypatch.context() as patch:
            patch.setattr(cpp_kernels, "kernels", lambda: None)
            return function(*args)

    return run


def assert_close(got: torch.Tensor, want: torch.Tensor, atol: float, rtol: float = 0.0) -> None:
    torch.testing.assert_close(got, want, atol=atol, rtol=rtol)


@pytest.mark.parametrize("change", SHAPES, ids=str)
@pytest.mark.parametrize("length", [1, 5000, 80_000])
def test_mel(without_kernels, change, length):
    spec, wave = replace(SPEC, **change), noise(2, length)
    want = without_kernels(mel.mel_power, wave, spec)
    assert_close(mel.mel_power(wave, spec), want, 1e-6 * float(want.max()), 1e-3)
    got = mel.log_mel_image(wave, spec)
    assert_close(got, without_kernels(mel.log_mel_image, wave, spec), 2e-5)
    assert got.min() >= 0 and got.max() <= 1


def test_mel_of_a_length_without_small_factors_is_torchs(without_kernels):
    spec, wave = replace(SPEC, n_fft=2 * 77, mels=16), noise(5000)
    assert cpp_kernels.fft_radices(77) is None
    assert torch.equal(mel.log_mel_image(wave, spec), without_kernels(mel.log_mel_image, wave, spec))


def test_silence_and_one_click():
    assert mel.log_mel_image(torch.zeros(1, 80_000), SPEC).count_nonzero() == 0
    click = torch.zeros(80_000)
    click[40_000] = 1
    assert mel.log_mel_image(click, SPEC).isfinite().all()


@pytest.mark.parametrize(("rate", "new"), RATES)
@pytest.mark.parametrize("length", [1, 440, 50_001])
def test_resample(without_kernels, rate, new, length):
    wave = noise(3, length)
    got = resample(wave, rate, new)
    assert_close(got, without_kernels(resample, wave, rate, new), 2e-5)
    assert torch.equal(got[1], resample(wave[1], rate, new))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_mono(without_kernels, channels):
    shorts = np.random.default_rng(channels).integers(-32768, 32767, (999, channels), dtype=np.int16)
    floats = shorts.astype(np.float32) / 3000
    for samples in (shorts, floats):
        assert_close(sound_file._mono(samples), without_kernels(sound_file._mono, samples), 1e-5)
    for bad in (np.nan, np.inf, -2e10 * channels):
        broken = floats.copy()
        broken[500, channels - 1] = bad
        with pytest.raises(MediaError, match="not finite or above"):
            sound_file._mono(broken)


def test_normalise(without_kernels):
    spec = replace(default_spec("image"), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.5), size=37)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 37, 37, 4), dtype=np.uint8))
    for given in (
        pixels[..., :3].permute(0, 3, 1, 2),
        pixels[..., :3].contiguous().permute(0, 3, 1, 2),
        pixels[..., :3].permute(0, 3, 1, 2).contiguous(),
        pixels[..., :1].permute(0, 3, 1, 2),
        noise(2, 3, 37, 37),
        noise(2, 1, 37, 37).flip(-1),
        noise(2, 3, 37, 37).transpose(2, 3),
    ):
        assert cpp_kernels.can_normalise(given, torch.empty(2, 3, 37, 37))
        batch = torch.full((4, 2, 3, 37, 37), 9.0)
        assert_close(
            views.normalise(given, spec, batch[1]),
            without_kernels(views.normalise, given, spec, torch.empty(2, 3, 37, 37)),
            1e-6,
            1e-6,
        )
        assert (batch[[0, 2, 3]] == 9).all()


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [17, 64])
@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (64, 64), (50, 97), (123, 40), (3, 200), (480, 640)])
def test_square(shape, size, method):
    pixels = photo(*shape)
    im, (height, width) = Image.fromarray(pixels), shape
    way = Image.Resampling.BICUBIC if method == "bicubic" else Image.Resampling.BILINEAR
    for box in ((0, 0, width, height), (0.1 * width, 0.07 * height, 0.93 * width, 0.8 * height)):
        left, top, right, bottom = box
        across = im.resize((size, height), way, box=(left, 0, right, height))  # Pillow 13 may begin with the columns
        want = np.array(across.resize((size, size), way, box=(0, top, size, bottom))).astype(int)
        for given in (pillow_image.view_pixels(im), torch.from_numpy(pixels).permute(2, 0, 1)):
            got = cpp_kernels.resize_to_square(given, box, size, method == "bicubic", False)
            assert np.abs(got.permute(1, 2, 0).numpy() - want).max() <= 2
            assert torch.equal(cpp_kernels.resize_to_square(given, box, size, method == "bicubic", True), got.flip(-1))


def written(im: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    im.save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 80},
        {"progressive": True},
        {"subsampling": 0},
        {"subsampling": 1},
        {"quality": 20, "optimize": True, "comment": b"a comment"},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_plain_jpeg_has_pillows_pixels(mode, options):
    pytest.importorskip("simplejpeg")
    data = written(Image.fromarray(photo(61, 83)).convert(mode), **options)
    assert jpeg.find_plain_size(data) == (83, 61)
    want = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(jpeg.decode_plain(data, 83, 61).permute(1, 2, 0).numpy(), want)


def test_other_jpegs_are_left_to_pillow():
    im = Image.fromarray(photo(61, 83))
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = written(im)
    frame = plain.index(b"\xff\xc0")
    others = {
        "turned": written(im, exif=exif),
        "CMYK": written(im.convert("CMYK")),
        "stored as RGB": written(im, keep_rgb=True),
        "no JFIF": plain[:2] + plain[20:],
        "12 bits": plain[: frame + 4] + b"\x0c" + plain[frame + 5 :],
        "arithmetic": plain[:frame] + b"\xff\xc9" + plain[frame + 2 :],
        "cut in its head": plain[: frame + 3],
        "no frame": plain[:frame],
    }
    assert {name: jpeg.find_plain_size(data) for name, data in others.items()} == dict.fromkeys(others)


def test_a_jpeg_cut_short_is_refused_and_a_turned_one_turned():
    spec, im = default_spec("image"), Image.fromarray(photo(300, 400))
    data = written(im)
    with pytest.raises(MediaError):
        decode(data[: len(data) // 2], "image", spec)
    exif = Image.Exif()
    exif[0x0112] = 3
    got, want = decode(written(im, exif=exif), "image", spec), decode(data, "image", spec)
    assert_close(got, want.flip(-1, -2), 8 / 255 / min(spec.std))


@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_lower_instruction_sets(isa):
    """The same tests pass in a process that is limited to these instructions."""
    if os.environ.get("MMCL_FAST_ISA"):
        pytest.skip("already inside")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "not lower"]
    done = subprocess.run(
        command, env={**os.environ, "MMCL_FAST_ISA": isa}, cwd=Path(__file__).parents[3], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]
