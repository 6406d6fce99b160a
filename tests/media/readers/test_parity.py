"""Images compared with the processors that CLIP and SigLIP were trained and published with."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from mmcl_fast.media import VisualSpec, decode
from tests.media.files import jpeg
from tests.media.originals import saved, scene

clip = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
siglip = pytest.importorskip("transformers.models.siglip.image_processing_pil_siglip")

BILINEAR = 2  # Pillow's number, as in preprocessor_config.json
SMALL = [(224, 224), (224, 301), (500, 375), (375, 500), (251, 640), (895, 448)]
CLOSE = 8.1  # of 255, at any pixel: at clipped edges the order of the passes matters
TINY = [(1, 1), (3, 2), (40, 30), (31, 97)]


def processors() -> dict[str, tuple]:
    crop, squash = clip.CLIPImageProcessorPil(), siglip.SiglipImageProcessorPil()
    bilinear = siglip.SiglipImageProcessorPil(resample=BILINEAR)
    return {
        "clip": (crop, _spec(crop, "crop", "bicubic")),
        "siglip": (squash, _spec(squash, "squash", "bicubic")),
        "bilinear": (bilinear, _spec(bilinear, "squash", "bilinear")),
    }


def _spec(processor, resize: str, interpolation: str) -> VisualSpec:
    return VisualSpec(
        size=224, resize=resize, interpolation=interpolation, mean=processor.image_mean, std=processor.image_std
    )


def difference(data: bytes, name: str, turned: bool = False) -> torch.Tensor:
    """Return the difference of the two images, ``[3, 224, 224]`` in 1/255."""
    processor, spec = processors()[name]
    image = Image.open(io.BytesIO(data))
    want = torch.as_tensor(
        processor(ImageOps.exif_transpose(image) if turned else image, return_tensors="pt")["pixel_values"]
    )[0]
    got = decode(data, "image", spec)[0]
    assert got.shape == want.shape and got.dtype == want.dtype
    return (got - want).abs() * torch.tensor(spec.std).view(3, 1, 1) * 255


def natural_noise(width: int, height: int) -> Image.Image:
    """Return noise whose amplitude falls with 1 / frequency, as in photographs."""
    noise = np.random.default_rng(0).normal(size=(height, width, 3))
    waves = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) + 1 / max(width, height)
    pixels = np.fft.irfft2(np.fft.rfft2(noise, axes=(0, 1)) / waves[..., None], s=(height, width), axes=(0, 1))
    return Image.fromarray((127 + 50 * pixels / pixels.std()).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("name", ["clip", "siglip", "bilinear"])
def test_pictures_below_four_times_the_size(name):
    """The differences come from rounding and clipping between two passes, whose order Pillow 13 chooses by shape."""
    for width, height in SMALL + TINY:
        for image in (scene(0, width, height), natural_noise(width, height)):
            for kind in ("PNG", "JPEG"):
                error = difference(saved(image, kind), name)
                assert error.max() < CLOSE and error.mean() < 0.3, (width, height, kind, error.max(), error.mean())


@pytest.mark.parametrize("name", ["clip", "siglip"])
@pytest.mark.parametrize("size", [(1920, 1080), (1350, 1400)])
def test_larger_pictures_are_reduced_on_the_way(name, size):
    """The JPEG decoder reduces from 4 times the size on, a box filter reduces crops from 6 times on."""
    image = natural_noise(*size)
    for kind in ("PNG", "JPEG"):
        error = difference(saved(image, kind), name)
        assert error.max() < 16 and error.mean() < 2, (kind, error.max(), error.mean())


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr"])
def test_modes(mode):
    image = scene(1, 300, 280).quantize(32) if mode == "P" else scene(1, 300, 280).convert(mode)
    kind = {"CMYK": "JPEG", "YCbCr": "JPEG"}.get(mode, "PNG")
    assert difference(saved(image, kind), "clip").max() < CLOSE


def test_the_orientation_of_a_photograph_is_applied_here():
    """The processors leave the orientation to the code that opens the file."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = jpeg(scene(0, 300, 260), exif=exif)
    assert difference(data, "clip", turned=True).max() < CLOSE < 50 < difference(data, "clip").max()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_on_white(mode):
    image = scene(0, 256, 256).convert(mode)
    image.putalpha(scene(5, 256, 256).convert("L"))
    assert difference(saved(image, "PNG"), "siglip").max() < CLOSE
