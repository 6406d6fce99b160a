"""Videos that DALI would read differently go to the CPU backend, whether DALI is installed or not."""

from fractions import Fraction

import av

from mmcl_fast.media.dsp.views import View
from mmcl_fast.media.engines.dali.routes import ROUTES
from tests.media.files import plain
from tests.media.readers.test_tracks import write_container
from tests.media.video_files import X264, copy_video, write_colour_video, write_grey_video

B3 = X264 | {"bf": 3}


def find_route(path, **spec) -> bool:
    return ROUTES["video"](path, plain("video", **spec), View(), True) is not None


def colours(path, **about):
    """Write a video in VP9, which DALI decodes with and without a GPU."""
    return write_colour_video(path, "libvpx-vp9", options={"crf": "4"}, **about)


def test_turns_and_mirrors(tmp_path):
    for degrees in (0, 90, 180, 270):
        for mirrored in (False, True):
            path = colours(tmp_path / f"{degrees}{mirrored}.mp4", turn=(degrees, mirrored))
            assert find_route(path) is (degrees == 0 and not mirrored)


def test_pixels_that_are_not_square(tmp_path):
    path = colours(tmp_path / "wide.mp4", aspect=Fraction(2))
    assert find_route(path, resize="squash") and not find_route(path, resize="crop")
    assert find_route(colours(tmp_path / "square.mp4"), resize="crop")


def test_a_second_film_or_cover(tmp_path):
    film, cover = ("libx264", 12, 32, 1), ("mjpeg", 1, 64, 0)
    assert find_route(write_container(tmp_path / "one.mkv", film))
    assert not find_route(write_container(tmp_path / "cover.mkv", cover, film))
    assert not find_route(write_container(tmp_path / "cover-last.mp4", film, cover))
    assert not find_route(write_container(tmp_path / "two.mkv", film, film))


def test_frames_that_an_edit_list_leaves_out(tmp_path):
    film = write_grey_video(tmp_path / "film.mp4", **B3)
    assert find_route(film)
    assert not find_route(copy_video(film, tmp_path / "shorter.mp4", shift=-4096))


def test_lengths_that_the_header_does_not_know(tmp_path):
    assert not find_route(write_grey_video(tmp_path / "a.mp4", muxer={"movflags": "frag_keyframe+empty_moov"}, **B3))
    assert not find_route(write_grey_video(tmp_path / "a.mkv", muxer={"live": "1"}, **B3))
    assert not find_route(write_grey_video(tmp_path / "a.avi", **B3))


def test_codecs_are_what_this_file_takes_them_for(tmp_path):
    with av.open(str(colours(tmp_path / "a.mp4"))) as container:
        assert container.streams.video[0].codec_context.name in ("vp9", "libvpx-vp9")
