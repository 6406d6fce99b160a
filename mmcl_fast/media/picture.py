"""Pictures of any mode by Pillow."""

from __future__ import annotations

import math
import struct
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mmcl_fast.errors import MediaError
from mmcl_fast.media import jpeg, native
from mmcl_fast.media.arrow import planes
from mmcl_fast.media.source import FORMATS, Source, open_av, open_binary, read_bytes
from mmcl_fast.media.spec import VisualSpec
from mmcl_fast.media.views import View, fit, region

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.ImageFile import ImageFile


def image(source: Source, spec: VisualSpec, view: View, whole: bool = False) -> Tensor:
    """A picture of any mode: EXIF orientation applied, alpha on white, grey and CMYK to RGB."""
    from PIL import Image

    with ExitStack() as stack:
        file = stack.enter_context(open_binary(source))
        if not whole and (small := _plain_jpeg(file, spec, view)) is not None:
            return small[None]
        im = stack.enter_context(Image.open(file, formats=FORMATS))
        limit_pixels(im, spec)
        if deep(im):
            return fit(_deep_rgb(source), spec, view)[None]
        if im.format == "PNG" and not whole and _shrinks(im, spec, view) and (pixels := _png(source, im)) is not None:
            return _shrink(pixels, spec, view)[None]
        if im.format in ("JPEG", "MPO") and not whole and (factor := _spare(*im.size, spec, view)) >= 2:
            im.draft(None, (math.ceil(im.width / factor), math.ceil(im.height / factor)))
        im.load()
        if im.mode.startswith("I;16"):
            grey = torch.from_numpy(np.asarray(im).astype(np.float32) / 65535)
            return fit(grey.expand(3, *grey.shape), spec, view)[None]
        if im.mode in ("I", "F"):
            raise MediaError(f"a picture of mode {im.mode} has no fixed white: save it with 8 or 16 bits")
        turned = upright(im)
        return square(turned, spec, view)[None]


def _spare(width: int, height: int, spec: VisualSpec, view: View) -> float:
    """By how much a JPEG may be scaled down: its decoder does 2, 4 or 8 for little; what is left is at least twice the
    size wanted."""
    left, top, right, bottom = region(width, height, spec, view)
    return min(right - left, bottom - top) / (2 * spec.size)


def _plain_jpeg(file: BinaryIO, spec: VisualSpec, view: View) -> Tensor | None:
    """The square of a JPEG that ``jpeg`` takes and that is not much too large, or None with the file at its start."""
    if native.kernels() is not None and file.read(3) == jpeg.START:
        data = jpeg.START + file.read()
        size = jpeg.plain_size(data)
        if size and size[0] * size[1] <= spec.max_pixels and _spare(*size, spec, view) < 2:
            pixels = jpeg.pixels(data, *size)
            if pixels is not None:
                return _shrink(pixels, spec, view)
    file.seek(0)
    return None


def square(im: Picture, spec: VisualSpec, view: View) -> Tensor:
    """A Pillow picture to uint8 ``[3, size, size]``."""
    from PIL import Image

    im = to_rgb(im)
    if _shrinks(im, spec, view):
        return _shrink(planes(im), spec, view)
    box = region(*im.size, spec, view)
    method = Image.Resampling.BICUBIC if spec.interpolation == "bicubic" else Image.Resampling.BILINEAR
    small = im.resize((spec.size, spec.size), method, box=box, reducing_gap=3.0)
    if view.flip:
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def _shrinks(im: Picture, spec: VisualSpec, view: View) -> bool:
    """Whether ``_shrink`` can: torch's resize takes no box with corners between pixels, only all of the picture."""
    return native.kernels() is not None or region(*im.size, spec, view) == (0, 0, *im.size)


def _shrink(pixels: Tensor, spec: VisualSpec, view: View) -> Tensor:
    """uint8 ``[C, H, W]`` to ``[3, size, size]``: Pillow's resize to within a few of 255, in a fraction of its time.

    Without the kernels all of the picture is shown, whatever the view.
    """
    if native.squares(pixels):
        box = region(pixels.shape[2], pixels.shape[1], spec, view)
        return native.square(pixels, box, spec.size, spec.interpolation == "bicubic", view.flip)
    small = functional.interpolate(
        pixels[None], size=(spec.size, spec.size), mode=spec.interpolation, align_corners=False, antialias=True
    )[0, :3]
    return small.flip(-1) if view.flip else small


def to_rgb(im: Picture) -> Picture:
    """Any mode to RGB; transparency is laid on white."""
    from PIL import Image

    if im.has_transparency_data:
        rgba = im.convert("RGBA")
        white = Image.new("RGBA", im.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return im if im.mode == "RGB" else im.convert("RGB")


def upright(im: Picture) -> Picture:
    """Applies the EXIF orientation (tag 0x0112)."""
    from PIL import Image

    turn = Image.Transpose
    moves = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }
    move = moves.get(im.getexif().get(0x0112, 1))
    return im if move is None else im.transpose(move)


def limit_pixels(im: Picture, spec: VisualSpec) -> None:
    if im.width * im.height > spec.max_pixels:
        raise MediaError(
            f"{im.width} x {im.height} pixels, the limit is {spec.max_pixels}: make it smaller or raise max_pixels"
        )


def _png(source: Source, im: Picture) -> Tensor | None:
    """A plain 8-bit RGB PNG to uint8 ``[3, H, W]`` by ffmpeg, which is faster at it than Pillow and as strict.

    None where it is not plain or not whole: Pillow then decodes it or says what is wrong.
    """
    if im.mode != "RGB":
        return None
    data, at = read_bytes(source), 8
    while at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if name in (b"tRNS", b"acTL", b"eXIf") or data.startswith((b"Raw profile", b"XML:com.adobe"), at + 8):
            return None  # transparent, animated, perhaps turned
        at += size + 12
    import av

    decoder = av.CodecContext.create("png", "r")
    decoder.thread_count, decoder.options = 1, {"err_detect": "crccheck+explode"}
    try:
        (frame,) = [*decoder.decode(av.Packet(data)), *decoder.decode(None)]
    except (av.FFmpegError, ValueError):
        return None
    if frame.format.name != "rgb24" or (frame.width, frame.height) != im.size:
        return None
    return torch.from_numpy(frame.to_ndarray()).permute(2, 0, 1)


def deep(im: ImageFile) -> bool:
    """16 bits a channel in colour, or grey with alpha: Pillow would drop the low byte silently."""
    if not im.tile or im.mode not in ("RGB", "RGBA", "LA"):
        return False
    args = im.tile[0][3]
    raw = args[0] if isinstance(args, tuple) and args else args
    return isinstance(raw, str) and ";16" in raw


def _deep_rgb(source: Source) -> Tensor:
    """``[3, H, W]`` float in 0..1 from 16 bits a channel, alpha on white."""
    with open_av(source) as container:
        pixels = next(container.decode(video=0)).to_ndarray(format="rgba64le")
    values = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1) / 65535
    return values[:3] * values[3:] + (1 - values[3:])
