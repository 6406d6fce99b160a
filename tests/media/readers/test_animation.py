"""Animated images: the times and the looks of their frames."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmcl_fast.errors import MediaError
from mmcl_fast.media import check, decode, sniff
from mmcl_fast.media.readers.video.animation import is_animation
from tests.media.animations import SIDE, Drawn, apng, gif
from tests.media.files import plain

RED, GREEN, BLUE, CLEAR = (255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255), (0, 0, 0, 0)
LETTERS = {(255, 0, 0): "R", (0, 255, 0): "G", (0, 0, 255): "B", (255, 255, 255): "-", (0, 0, 0): "k"}
LEFT, RIGHT = (0, 0, 8, 16), (8, 0, 8, 16)


def letters(data, frames: int, x: int = SIDE // 2, y: int = SIDE // 2) -> str:
    """Return the colours at a pixel of the frames, one letter each; - is white."""
    got = (decode(data, "video", plain("video", SIDE, frames=frames))[:, :, y, x] * 255).round().int()
    names = np.array(list(LETTERS))
    return "".join(list(LETTERS.values())[int(np.abs(names - pixel.numpy()).sum(1).argmin())] for pixel in got)


def saved(kind: str, colours: list, durations: list[int], **options) -> bytes:
    pictures = [Image.new("RGBA", (64, 48), colour) for colour in colours]
    data = io.BytesIO()
    exact: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "AVIF" else {}
    pictures[0].save(data, kind, save_all=True, append_images=pictures[1:], duration=durations, **exact, **options)
    return data.getvalue()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("options", [{}, {"loop": 3}, {"loop": 1}], ids=str)
def test_each_frame_counts_for_its_duration(kind, options):
    data = saved(kind, [RED, GREEN, BLUE], [100, 300, 600], **({} if kind == "AVIF" else options))
    assert letters(data, 8) == "RGGBBBBB"
    assert letters(data, 20) == "RRGGGGGGBBBBBBBBBBBB"
    check(data, "video")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF"])
def test_transparency_lies_on_white(kind):
    assert letters(saved(kind, [CLEAR, RED, CLEAR], [100, 100, 100]), 3) == "-R-"


def test_what_webp_and_avif_say_of_a_background_does_not_show():
    data = saved("WEBP", [CLEAR, RED], [100, 100], background=(0, 0, 255, 255))
    assert letters(data, 2) == "-R"


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])  # Pillow crashes when it writes an AVIF with an orientation
def test_the_orientation_of_an_animation(kind):
    exif = Image.Exif()
    exif[0x0112] = 6  # its first row is the right side
    halves = Image.new("RGB", (64, 64), RED[:3])
    halves.paste(GREEN[:3], (0, 32, 64, 64))
    data = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    other = halves.copy()
    other.putpixel((0, 0), (9, 9, 9))
    halves.save(data, kind, save_all=True, append_images=[other], duration=100, exif=exif, **options)
    assert letters(data.getvalue(), 2, x=4) == "GG" and letters(data.getvalue(), 2, x=12) == "RR"


def test_a_default_image_outside_of_the_animation():
    frames = [Drawn(GREEN, delay=50), Drawn(BLUE, delay=50)]
    assert letters(apng(frames, default=RED), 8) == "GGGGBBBB"
    assert letters(apng(frames), 8) == "GGGGBBBB"
    assert letters(apng([*frames, Drawn(RED, delay=100)], default=CLEAR), 4) == "GBRR"


@pytest.mark.parametrize(
    "data",
    [apng([Drawn(GREEN)]), apng([Drawn(GREEN)], default=RED), gif([Drawn(GREEN)]), saved("WEBP", [RED], [100])],
    ids=["png", "png-with-default", "gif", "webp"],
)
def test_one_frame_is_a_still_picture(data):
    with pytest.raises(MediaError, match="a still image, not a video: move it to the image modality"):
        decode(data, "video")
    assert sniff(data) == "image"


def test_more_frames_are_a_video():
    frames = [Drawn(GREEN), Drawn(BLUE)]
    files = [apng(frames), apng(frames, default=RED), gif(frames)]
    assert [sniff(data) for data in files] == ["video"] * 3


@pytest.mark.parametrize(
    "dispose, blend, left, right",
    [
        (0, 0, "RRB", "RGG"),  # left as it is
        (1, 0, "RRB", "RG-"),  # the frame's area is cleared
        (2, 0, "RRB", "RGR"),  # restored to the state before
        (0, 1, "RRB", "RGG"),
    ],
)
def test_how_png_frames_follow_each_other(dispose, blend, left, right):
    frames = [Drawn(RED), Drawn(GREEN, RIGHT, dispose, blend), Drawn(BLUE, LEFT)]
    for default in (None, BLUE):
        data = apng(frames, default)
        assert (letters(data, 3, x=4), letters(data, 3, x=12)) == (left, right)


def test_png_frames_lie_over_or_replace():
    for blend, shown in ((0, "R-"), (1, "RR")):  # replace, over
        assert letters(apng([Drawn(RED), Drawn(CLEAR, RIGHT, blend=blend)]), 2, x=12) == shown
    # There is nothing before the first frame to restore, so its area is cleared.
    assert letters(apng([Drawn(RED, dispose=2), Drawn(GREEN, LEFT)]), 2, x=12) == "R-"


@pytest.mark.parametrize(
    "dispose, left, right",
    [
        (0, "RRB", "RGG"),
        (1, "RRB", "RGG"),
        (2, "RRB", "RG-"),  # cleared: browsers show no background colour
        (3, "RRB", "RGR"),
    ],
)
def test_how_gif_frames_follow_each_other(dispose, left, right):
    data = gif([Drawn(RED), Drawn(GREEN, RIGHT, dispose), Drawn(BLUE, LEFT)])
    assert (letters(data, 3, x=4), letters(data, 3, x=12)) == (left, right)


def test_gif_frames_that_do_not_cover_all():
    assert letters(gif([Drawn(RED, LEFT), Drawn(GREEN, LEFT)]), 2, x=12) == "--"
    assert letters(gif([Drawn(RED), Drawn(CLEAR)]), 2) == "RR"
    assert letters(gif([Drawn(RED, dispose=2), Drawn(CLEAR, RIGHT)]), 2, x=12) == "R-"
    assert letters(gif([Drawn(RED), Drawn(GREEN, dispose=2), Drawn(BLUE, LEFT)], plays=None), 3, x=12) == "RG-"


def test_a_disposal_counts_for_its_own_frame():
    frames = [Drawn(RED), Drawn(GREEN, RIGHT, dispose=3), Drawn(BLUE, LEFT, dispose=0), Drawn(RED, RIGHT)]
    assert letters(gif(frames), 4, x=4) == "RRBB"
    assert letters(gif([*frames, Drawn(GREEN, RIGHT, dispose=2), Drawn(BLUE, LEFT)]), 6, x=12) == "RGRRG-"


@pytest.mark.parametrize("interlace", [False, True])
def test_gif_as_pillow_writes_it(interlace):
    """Palettes, partial frames, transparency and interlacing give the images that Pillow reads from its own file."""
    rng = np.random.default_rng(0)
    pictures = [Image.new("RGB", (40, 30), (20, 200, 90))]
    for i in range(5):
        picture = pictures[-1].copy()
        noise = Image.fromarray(rng.integers(0, 255, (10, 12, 3), np.uint8)).quantize(60).convert("RGB")
        picture.paste(noise, (5 * i, 4 * i))
        pictures.append(picture)
    data = io.BytesIO()
    pictures[0].save(data, "GIF", save_all=True, append_images=pictures[1:], duration=100, interlace=interlace)
    spec = plain("video", 24, frames=6)
    got = decode(data.getvalue(), "video", spec)
    with Image.open(data) as im:
        for number, frame in enumerate(got):
            im.seek(number)
            still = io.BytesIO()
            im.convert("RGB").save(still, "PNG")
            assert (frame - decode(still.getvalue(), "image", plain("image", 24))[0]).abs().max() < 2 / 255


def test_a_gif_cut_short():
    data = gif([Drawn(RED), Drawn(GREEN), Drawn(BLUE)])
    assert letters(data[:-1], 3) == "RGB"  # all but the trailer
    with pytest.raises(MediaError, match="truncated"):
        decode(data[:-100], "video")
    ends = data.index(b",", 800) + 3  # within the place of a frame
    with pytest.raises(MediaError, match="cut short or damaged: replace it"):
        decode(data[:ends], "video")


@pytest.mark.parametrize("delay", [0, 1])
def test_a_delay_of_nothing_is_a_tenth_of_a_second(delay):
    """Delays up to 10 ms count as 100 ms, as in browsers."""
    frames = [Drawn(RED, delay=delay), Drawn(GREEN, delay=10), Drawn(BLUE, delay=2)]
    for data in (gif(frames), apng(frames)):
        assert letters(data, 22) == 10 * "R" + 10 * "G" + 2 * "B"


def test_delays_of_png_are_fractions():
    assert letters(apng([Drawn(RED, delay=1), Drawn(GREEN, delay=3)], unit=4), 4) == "RGGG"
    assert letters(apng([Drawn(RED, delay=10), Drawn(GREEN, delay=30)], unit=0), 4) == "RGGG"  # hundredths


def test_formats_are_known_by_their_first_bytes():
    def box(*brands: bytes) -> bytes:
        return struct.pack(">I", 12 + 4 * len(brands)) + b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])

    assert all(is_animation(box(*brands)) for brands in ((b"avis", b"avif"), (b"avif", b"mif1"), (b"msf1", b"avis")))
    assert not any(
        is_animation(box(*brands)) for brands in ((b"isom", b"mp41"), (b"heic", b"mif1"), (b"msf1", b"hevc"))
    )
    assert is_animation(b"RIFF\0\0\0\0WEBP") and not is_animation(b"RIFF\0\0\0\0AVI ")


def test_limits():
    data = saved("WEBP", [RED, GREEN, BLUE], [100, 300, 600])
    with pytest.raises(MediaError, match="lasts 1 s, the limit is 0.5 s"):
        decode(data, "video", plain("video", max_seconds=0.5))
    with pytest.raises(MediaError, match="3 frames of 64 x 48, the limit in pixels is 500 each"):
        decode(data, "video", plain("video", max_pixels=500))
