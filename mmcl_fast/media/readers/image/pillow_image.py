"""Images of any mode, by Pillow or by a faster or more exact decoder where one fits."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mmcl_fast.errors import MediaError
from mmcl_fast.media.dsp import cpp_kernels
from mmcl_fast.media.dsp.views import View, crop_and_resize, view_region
from mmcl_fast.media.formats import PILLOW_FORMATS
from mmcl_fast.media.readers.image import high_bit_depth, jpeg, png
from mmcl_fast.media.readers.image.pillow_memory import view_pixels
from mmcl_fast.media.source import Source, open_binary, read_bytes
from mmcl_fast.media.spec import VisualSpec

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.ImageFile import ImageFile


def read_image(source: Source, spec: VisualSpec, view: View, to_end: bool = False) -> Tensor:
    """Read an image of any mode to ``[1, 3, size, size]``: uint8, or float32 in 0..1 from more than 8 bits.

    The EXIF orientation is applied, transparency is blended with white, grey and CMYK become RGB.

    Args:
        source: the file.
        spec: the preparation.
        view: the part to show.
        to_end: decode every byte; without it a JPEG may be decoded at a smaller scale.
    """
    from PIL import Image, UnidentifiedImageError

    with ExitStack() as stack:
        file = stack.enter_context(open_binary(source))
        if not to_end and (square := _read_plain_jpeg(file, spec, view)) is not None:
            return square[None]
        if (rgb := high_bit_depth.read_rgb(file, spec.max_pixels)) is not None:
            return _array_to_square(rgb, spec, view)[None]
        file.seek(0)
        try:
            im = stack.enter_context(Image.open(file, formats=PILLOW_FORMATS))
        except UnidentifiedImageError:
            if (bits := jpeg.find_bit_depth(read_bytes(source))) in (None, 8):
                raise
            raise MediaError(f"a JPEG of {bits} bits a channel: save it with 8, or as PNG of 16") from None
        limit_pixels(im, spec)
        if im.format == "PNG" and has_16_bits(im):
            return _array_to_square(_read_16_bit_png(source, im), spec, view)[None]
        fast = im.format == "PNG" and not to_end and _can_resize_tensor(*im.size, spec, view)
        if fast and (pixels := _decode_plain_png(source, im)) is not None:
            return _resize_tensor(pixels, spec, view)[None]
        if im.format in ("JPEG", "MPO") and not to_end and (factor := _spare_scale(*im.size, spec, view)) >= 2:
            # The decoder chooses the next larger scale, so enough pixels are left for the resize.
            im.draft(None, (math.ceil(im.width / factor), math.ceil(im.height / factor)))
        scale_transparent_grey(im)
        im.load()
        if im.mode.startswith("I;16"):
            grey = np.asarray(im)[..., None]
            return _array_to_square(high_bit_depth.blend_on_white(grey, 65535, None), spec, view)[None]
        if im.mode in ("I", "F"):
            raise MediaError(f"an image of mode {im.mode} {high_bit_depth.NO_WHITE}")
        return to_square(turn_upright(im), spec, view)[None]


def _spare_scale(width: int, height: int, spec: VisualSpec, view: View) -> float:
    """Return by how much a JPEG may be scaled down and still have at least twice the wanted size.

    The decoder scales by 2, 4 or 8 at little cost.
    """
    left, top, right, bottom = view_region(width, height, spec, view)
    return min(right - left, bottom - top) / (2 * spec.size)


def _read_plain_jpeg(file: BinaryIO, spec: VisualSpec, view: View) -> Tensor | None:
    """Return the square of a plain JPEG that is not much too large; else None, with the file at its start again."""
    if cpp_kernels.kernels() is not None and file.read(3) == jpeg.START:
        data = jpeg.START + file.read()
        size = jpeg.find_plain_size(data)
        if size and size[0] * size[1] <= spec.max_pixels and _spare_scale(*size, spec, view) < 2:
            pixels = jpeg.decode_plain(data, *size)
            if pixels is not None:
                return _resize_tensor(pixels, spec, view)
    file.seek(0)
    return None


def to_square(im: Picture, spec: VisualSpec, view: View) -> Tensor:
    """Convert a Pillow image to uint8 ``[3, size, size]``."""
    from PIL import Image

    im = to_rgb(im)
    if _can_resize_tensor(*im.size, spec, view):
        return _resize_tensor(view_pixels(im), spec, view)
    box = view_region(*im.size, spec, view)
    method = Image.Resampling.BICUBIC if spec.interpolation == "bicubic" else Image.Resampling.BILINEAR
    # reducing_gap: a box filter reduces a much larger image first, which is faster and differs little.
    square = im.resize((spec.size, spec.size), method, box=box, reducing_gap=3.0)
    if view.flip:
        square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def _array_to_square(pixels: np.ndarray, spec: VisualSpec, view: View) -> Tensor:
    """Convert ``[H, W, 3]`` to ``[3, size, size]`` of the same dtype, uint8 or float32."""
    from PIL import Image

    if pixels.dtype == np.uint8 and not _can_resize_tensor(pixels.shape[1], pixels.shape[0], spec, view):
        return to_square(Image.fromarray(pixels), spec, view)
    # torch warns about arrays that cannot be written.
    planes = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy()).permute(2, 0, 1)
    return _resize_tensor(planes, spec, view) if pixels.dtype == np.uint8 else crop_and_resize(planes, spec, view)


def _can_resize_tensor(width: int, height: int, spec: VisualSpec, view: View) -> bool:
    """Return whether ``_resize_tensor`` can do it. Without the kernels it resizes whole images only, not a region."""
    return cpp_kernels.kernels() is not None or view_region(width, height, spec, view) == (0, 0, width, height)


def _resize_tensor(pixels: Tensor, spec: VisualSpec, view: View) -> Tensor:
    """Resize uint8 ``[C, H, W]`` to ``[3, size, size]``, as Pillow does to within a few of 255, but much faster.

    Without the kernels it shows the whole image, whatever the view; see ``_can_resize_tensor``.
    """
    if cpp_kernels.can_resize(pixels):
        box = view_region(pixels.shape[2], pixels.shape[1], spec, view)
        return cpp_kernels.resize_to_square(pixels, box, spec.size, spec.interpolation == "bicubic", view.flip)
    square = functional.interpolate(
        pixels[None], size=(spec.size, spec.size), mode=spec.interpolation, align_corners=False, antialias=True
    )[0, :3]
    return square.flip(-1) if view.flip else square


def to_rgb(im: Picture) -> Picture:
    """Convert any mode to RGB; transparency is blended with white."""
    from PIL import Image

    if im.has_transparency_data:
        rgba = im.convert("RGBA")
        white = Image.new("RGBA", im.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return im if im.mode == "RGB" else im.convert("RGB")


def turn_upright(im: Picture) -> Picture:
    """Apply the EXIF orientation (tag 0x0112)."""
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
    move = moves.get(exif_orientation(im))
    return im if move is None else im.transpose(move)


def limit_pixels(im: Picture, spec: VisualSpec) -> None:
    """Raise MediaError for an image of more than ``spec.max_pixels`` pixels."""
    if im.width * im.height > spec.max_pixels:
        raise MediaError(
            f"{im.width} x {im.height} pixels, the limit is {spec.max_pixels}: make it smaller or raise max_pixels"
        )


def _decode_plain_png(source: Source, im: Picture) -> Tensor | None:
    """Decode a plain 8-bit RGB PNG to uint8 ``[3, H, W]`` by FFmpeg, which is faster than Pillow and as strict.

    None for a PNG that is not plain or not complete: Pillow then decodes it or says what is wrong.
    """
    if im.mode != "RGB":
        return None
    data = read_bytes(source)
    if png.chunk_names(data) & {b"tRNS", b"acTL", png.ORIENTATION}:
        return None
    import av

    decoder = av.CodecContext.create("png", "r")
    # A wrong checksum is an error, as it is for Pillow.
    decoder.thread_count, decoder.options = 1, {"err_detect": "crccheck+explode"}
    try:
        (frame,) = [*decoder.decode(av.Packet(data)), *decoder.decode(None)]
    except (av.FFmpegError, ValueError):
        return None
    if frame.format.name != "rgb24" or (frame.width, frame.height) != im.size:
        return None
    return torch.from_numpy(frame.to_ndarray()).permute(2, 0, 1)


def has_16_bits(im: ImageFile) -> bool:
    """Return whether a PNG has 16 bits a channel. Pillow would drop the low byte of colours silently."""
    if not im.tile or im.mode not in ("RGB", "RGBA", "LA", "I;16", "I"):
        return False
    args = im.tile[0][3]
    raw = args[0] if isinstance(args, tuple) and args else args
    return isinstance(raw, str) and ";16" in raw


def _read_16_bit_png(source: Source, im: ImageFile) -> np.ndarray:
    """Read a PNG of 16 bits to float32 ``[H, W, 3]`` in 0..1, upright and on white."""
    data = read_bytes(source)
    values = png.decode_16_bits(data)
    if values.shape[1::-1] != im.size:
        raise MediaError("a PNG whose header states another size than its pixels have: replace the file")
    samples = values.shape[2]
    pixels = high_bit_depth.blend_on_white(values, 65535, samples - 1 if samples in (2, 4) else None)
    if png.ORIENTATION in png.chunk_names(data):
        pixels = high_bit_depth.apply_orientation(pixels, exif_orientation(im))
    return np.ascontiguousarray(pixels)


def exif_orientation(im: Picture) -> int:
    """Return the orientation by EXIF (tag 0x0112) or XMP, 1 where neither states it.

    It decodes the pixels, because the chunks of a PNG may come behind them.
    """
    im.load()
    try:
        return im.getexif().get(0x0112, 1)
    except Exception:  # broken EXIF is no reason to refuse the image
        return 1


def scale_transparent_grey(im: ImageFile) -> None:
    """Scale the transparent grey of a PNG of 2 or 4 bits to 8 bits, as Pillow scales the pixels but not this value."""
    if im.format == "PNG" and im.mode == "L" and im.tile and isinstance(grey := im.info.get("transparency"), int):
        bits = {"L;2": 2, "L;4": 4}.get(str(im.tile[0][3]), 8)
        im.info["transparency"] = grey * 255 // ((1 << bits) - 1)
