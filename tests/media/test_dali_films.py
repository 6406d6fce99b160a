"""Films that DALI would read otherwise stay with the CPU, whether DALI is installed or not."""

from fractions import Fraction

import av

from mmcl_fast.media.dsp.views import View
from mmcl_fast.media.engines.dali.routes import ROUTES
from tests.media.files import plain
from tests.media.films import X264, colour_film, copied, grey_film
from tests.media.test_tracks import container_with

B3 = X264 | {"bf": 3}


def routed(path, **spec) -> bool:
    return ROUTES["video"](path, plain("video", **spec), View(), True) is not None


def colours(path, **about):
    """In VP9, which DALI takes with and without a GPU."""
    return colour_film(path, "libvpx-vp9", options={"crf": "4"}, **about)


def test_turns_and_mirrors(tmp_path):
    for degrees in (0, 90, 180, 270):
        for mirrored in (False, True):
            path = colours(tmp_path / f"{degrees}{mirrored}.mp4", turn=(degrees, mirrored))
            assert routed(path) is (degrees == 0 and not mirrored)


def test_pixels_that_are_not_square(tmp_path):
    path = colours(tmp_path / "wide.mp4", aspect=Fraction(2))
    assert routed(path, resize="squash") and not routed(path, resize="crop")
    assert routed(colours(tmp_path / "square.mp4"), resize="crop")


def test_a_second_film_or_cover(tmp_path):
    film, cover = ("libx264", 12, 32, 1), ("mjpeg", 1, 64, 0)
    assert routed(container_with(tmp_path / "one.mkv", film))
    assert not routed(container_with(tmp_path / "cover.mkv", cover, film))
    assert not routed(container_with(tmp_path / "cover-last.mp4", film, cover))
    assert not routed(container_with(tmp_path / "two.mkv", film, film))


def test_frames_that_an_edit_list_leaves_out(tmp_path):
    film = grey_film(tmp_path / "film.mp4", **B3)
    assert routed(film)
    assert not routed(copied(film, tmp_path / "shorter.mp4", shift=-4096))


def test_lengths_that_the_header_does_not_know(tmp_path):
    assert not routed(grey_film(tmp_path / "a.mp4", muxer={"movflags": "frag_keyframe+empty_moov"}, **B3))
    assert not routed(grey_film(tmp_path / "a.mkv", muxer={"live": "1"}, **B3))
    assert not routed(grey_film(tmp_path / "a.avi", **B3))


def test_codecs_are_what_this_file_takes_them_for(tmp_path):
    with av.open(str(colours(tmp_path / "a.mp4"))) as container:
        assert container.streams.video[0].codec_context.name in ("vp9", "libvpx-vp9")
