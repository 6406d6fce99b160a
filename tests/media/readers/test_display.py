"""Videos that are to be shown turned, mirrored or with pixels that are not square."""

from fractions import Fraction

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from mmcl_fast.media import decode
from mmcl_fast.media.readers.video.display_matrix import Orientation, pixel_aspect_ratio, read_display_matrix
from mmcl_fast.media.source import open_av
from tests.media.files import plain
from tests.media.video_files import CORNERS, corner_colours, write_colour_video

# A key is (turn counterclockwise in degrees, mirror after it). The value lists the corners of the stored image that are
# then seen at the upper left, upper right, lower left and lower right. The stored corners are 0 to 3 in this order.
TURNS = {
    (0, False): (0, 1, 2, 3),
    (90, False): (1, 3, 0, 2),
    (180, False): (3, 2, 1, 0),
    (270, False): (2, 0, 3, 1),
    (0, True): (1, 0, 3, 2),
    (90, True): (3, 1, 2, 0),
    (180, True): (2, 3, 0, 1),
    (270, True): (0, 2, 1, 3),
}


def assert_corners(path, order, within=4, **spec):
    got = np.array(corner_colours(path, **spec))
    assert np.abs(got - np.array([CORNERS[i] for i in order])).max() <= within, got


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm", "a.3gp"])
@pytest.mark.parametrize("turn", TURNS)
def test_turned_and_mirrored(tmp_path, name, turn):
    codec, options = ("libvpx-vp9", {"crf": "4"}) if name == "a.webm" else ("libx264", {})
    path = write_colour_video(tmp_path / name, codec, turn=turn, options=options)
    assert_corners(path, TURNS[turn], within=16 if name == "a.webm" else 4)


@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "a.h264"])
@pytest.mark.parametrize("turn", TURNS)
def test_an_orientation_inside_the_stream(tmp_path, name, turn):
    """H.264 may state an orientation with its first frame, for all later ones (ITU-T H.264, D.2.27)."""
    degrees, mirrored = turn
    flip = ":flip=horizontal" if mirrored else ""
    source = "plain.mp4" if name == "a.mp4" else "plain.ts"
    with av.open(str(write_colour_video(tmp_path / source))) as film, av.open(str(tmp_path / name), "w") as container:
        stream = film.streams.video[0]
        copy = container.add_stream_from_template(stream)
        sign = 360 - degrees if mirrored else degrees  # it mirrors first and turns then
        added = BitStreamFilterContext(f"h264_metadata=display_orientation=insert:rotate={sign}{flip}", stream)
        for packet in film.demux(stream):
            if packet.dts is not None:
                for changed in added.filter(packet):
                    changed.stream = copy
                    container.mux(changed)
    assert_corners(tmp_path / name, TURNS[turn])


def test_turn_of():
    picture = np.arange(6).reshape(2, 3)
    assert Orientation()(picture).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert Orientation(transposes=True)(picture).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert Orientation(flips_x=True)(picture).tolist() == [[2, 1, 0], [5, 4, 3]]
    assert Orientation(True, flips_y=True)(picture).tolist() == np.rot90(picture).tolist()


def test_a_turn_between_quarters_is_rounded(tmp_path):
    with open_av(write_colour_video(tmp_path / "a.mp4", turn=(100, False))) as container:
        assert read_display_matrix(next(container.decode(video=0))) == Orientation(True, flips_y=True)
    with open_av(write_colour_video(tmp_path / "b.mp4")) as container:
        assert read_display_matrix(next(container.decode(video=0))) is None


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
@pytest.mark.parametrize(
    "aspect, turn, order",
    [
        (Fraction(1), (0, False), (0, 1, 2, 3)),
        (Fraction(2), (0, False), (0, 1, 2, 3)),
        (Fraction(1, 2), (0, False), (0, 1, 2, 3)),
        (Fraction(2), (90, False), (1, 3, 0, 2)),
    ],
)
def test_pixels_that_are_not_square(tmp_path, name, aspect, turn, order):
    """The crop is the middle square as shown: 24 columns of 64 x 48 pixels that are twice as wide as high."""
    if turn[0] and name in ("a.ts", "a.avi"):
        aspect, turn, order = Fraction(4, 3), (0, False), (0, 1, 2, 3)  # these containers store no orientation
    path = write_colour_video(tmp_path / name, aspect=aspect, turn=turn)
    with open_av(path) as container:
        assert pixel_aspect_ratio(container.streams.video[0]) == pytest.approx(float(aspect))
    assert_corners(path, order, resize="squash")
    assert_corners(path, order, resize="crop")
    # The red ends in the middle of the square, whatever the shape of the pixels.
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, 26:38] = 255  # 12 columns: half of the middle 24
    bars = write_colour_video(tmp_path / f"bars-{name}", aspect=aspect, picture=picture)
    width = float((decode(bars, "video", plain("video", 64, frames=1, resize="crop"))[0, 0, 32] > 0.5).sum())
    shown = {Fraction(1): 12 / 48, Fraction(2): 12 / 24, Fraction(4, 3): 12 / 36, Fraction(1, 2): 12 / 64}[aspect]
    assert width / 64 == pytest.approx(shown, abs=0.03)
