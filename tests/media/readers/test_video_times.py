"""The sampled frames are the ones that a plain decoder shows at these times, whatever times the file states."""

from fractions import Fraction

import av
import numpy as np
import pytest

from mmcl_fast.errors import MediaError
from mmcl_fast.media import check
from mmcl_fast.media.readers.video.frame_reader import FrameReaderByNumber
from mmcl_fast.media.readers.video.timeline import timeline_from_header, timeline_from_packets
from mmcl_fast.media.source import open_av
from tests.media.video_files import X264, all_numbers, copy_video, shown_numbers, write_grey_video

B3 = X264 | {"bf": 3}
PYRAMID = X264 | {"x264_params": "bframes=7:b-adapt=0:b-pyramid=normal", "g": 40}
OPEN = X264 | {"x264_params": "bframes=3:b-adapt=0:open-gop=1"}
X265 = {
    "preset": "fast",
    "crf": "10",
    "x265_params": "bframes=4:b-adapt=0:keyint=12:log-level=none:pools=none:frame-threads=1",
}
MPEG = {"g": 12, "qscale": 2}
FILM_RATE = Fraction(24000, 1001)

FILMS = [
    *[(f"film.{end}", "libx264", B3) for end in ("mp4", "mov", "mkv", "avi", "ts", "m2ts", "flv", "mpg", "wmv", "3gp")],
    *[(f"film.{end}", "libx264", X264 | {"bf": 0}) for end in ("mp4", "avi", "ts", "mpg", "wmv")],
    *[(f"film.{end}", "libx264", PYRAMID) for end in ("mkv", "avi", "ts")],
    *[(f"film.{end}", "libx264", OPEN) for end in ("mp4", "avi", "ts", "flv")],
    *[(f"film.{end}", "libx264", B3 | {"pixels": "yuv420p10le"}) for end in ("mp4", "avi")],
    *[(f"film.{end}", "libx264", B3 | {"rate": FILM_RATE}) for end in ("mp4", "mkv", "avi", "ts", "flv")],
    *[(f"film.{end}", "libx265", X265) for end in ("mp4", "mkv", "ts", "flv", "mpg", "hevc")],
    ("film.mp4", "libx265", X265 | {"pixels": "yuv420p10le"}),
    *[(f"film.{end}", "mpeg4", MPEG | {"bf": 2}) for end in ("mp4", "mkv", "avi", "ts", "mpg", "wmv", "m4v")],
    *[(f"film.{end}", "mpeg4", MPEG | {"bf": 0}) for end in ("avi", "mpg")],
    *[(f"film.{end}", "mpeg2video", MPEG | {"bf": 2, "rate": 25}) for end in ("mpg", "vob", "ts", "avi", "mkv", "m2v")],
    *[(f"film.{end}", "mpeg1video", MPEG | {"bf": 2, "rate": 25}) for end in ("mpg", "ts", "avi", "m1v")],
    ("film.mpg", "mpeg1video", MPEG | {"bf": 0, "rate": 25}),
    *[(f"film.{end}", "libvpx", {"crf": 4, "b": "1M"}) for end in ("webm", "mkv", "avi", "ivf", "ogg")],
    *[(f"film.{end}", "libvpx-vp9", {"crf": 4, "lag-in-frames": 16}) for end in ("webm", "mp4", "ivf", "flv", "avi")],
    *[(f"film.{end}", "libsvtav1", {"crf": 10, "preset": 8}) for end in ("webm", "mp4", "ivf", "obu")],
    *[(f"film.{end}", "mjpeg", {"pixels": "yuvj420p", "qmin": 1, "qmax": 2}) for end in ("avi", "mov", "mkv", "mp4")],
    *[(f"film.{end}", "ffv1", {}) for end in ("avi", "mkv")],
    ("film.avi", "rawvideo", {}),
    ("film.wmv", "wmv2", {"qscale": 2}),
    ("film.avi", "msmpeg4v3", {"qscale": 2}),
    ("film.flv", "flv", {"qscale": 2}),
    ("film.mov", "prores", {"pixels": "yuv422p10le"}),
    ("film.h264", "libx264", B3),
    ("fragments.mp4", "libx264", B3 | {"muxer": {"movflags": "frag_keyframe+empty_moov"}}),
    ("dash.mp4", "libx264", B3 | {"muxer": {"movflags": "frag_keyframe+empty_moov+default_base_moof+dash"}}),
    ("no-edit-list.mp4", "libx264", B3 | {"muxer": {"use_editlist": "0"}}),
    ("negative-offsets.mp4", "libx264", B3 | {"muxer": {"movflags": "negative_cts_offsets"}}),
    ("no-length.mkv", "libx264", B3 | {"muxer": {"live": "1"}}),
    ("no-length.webm", "libvpx-vp9", {"crf": 4, "muxer": {"live": "1"}}),
]


@pytest.mark.parametrize(
    "name, codec, options", FILMS, ids=[f"{i}-{codec}-{name}" for i, (name, codec, _) in enumerate(FILMS)]
)
def test_frames_are_those_of_a_plain_decoder(tmp_path, name, codec, options):
    path = write_grey_video(tmp_path / name, codec, **options)
    right = all_numbers(path)
    assert right == pytest.approx(range(40), abs=2.5)  # a codec may change a grey
    assert shown_numbers(path, 8) == pytest.approx([right[i] for i in (2, 7, 12, 17, 22, 27, 32, 37)], abs=0.3)
    assert shown_numbers(path, 40) == pytest.approx(right, abs=0.3)
    check(path, "video")


UNEVEN = [100 * i if i < 20 else 2000 + 300 * (i - 20) for i in range(40)]  # ten a second, then a third of that


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.ts", "a.flv", "fragments.mp4"])
@pytest.mark.parametrize("options", [B3, X264 | {"bf": 0}], ids=["b-frames", "none"])
def test_frames_of_uneven_length(tmp_path, name, options):
    muxer = {"movflags": "frag_keyframe+empty_moov"} if name == "fragments.mp4" else {}
    path = write_grey_video(tmp_path / name, times=UNEVEN, muxer=muxer, **options)
    got = shown_numbers(path, 16)
    # The last frame begins at 7.7 s; how long it is shown is not written anywhere.
    possible = []
    for last in (100, 200, 300):
        moments = (np.arange(16) + 0.5) * (UNEVEN[-1] + last) / 16
        possible.append([int(np.searchsorted(UNEVEN, moment, "right")) - 1 for moment in moments])
    assert any(got == pytest.approx(numbers, abs=0.35) for numbers in possible), (got, possible)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.flv", "a.mov"])
@pytest.mark.parametrize("seconds", [-0.4, 3, 1000])
def test_a_film_that_starts_elsewhere(tmp_path, name, seconds):
    film = write_grey_video(tmp_path / "film.mp4", **B3)
    path = copy_video(film, tmp_path / name, shift=int(seconds * 10240))
    right = all_numbers(path)  # an mp4 leaves out frames before time zero
    assert len(right) == (36 if seconds < 0 and name in ("a.mp4", "a.mov") else 40)
    assert shown_numbers(path, 8) == pytest.approx([right[int((i + 0.5) * len(right) / 8)] for i in range(8)], abs=0.3)
    check(path, "video")


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
def test_a_file_that_keeps_no_times_of_frames(tmp_path, name):
    """The writer stored decoding times as presentation times."""
    path = copy_video(write_grey_video(tmp_path / "film.mp4", **B3), tmp_path / name, untimed=True)
    right = all_numbers(path)
    assert len(right) >= 38 and right == sorted(right)
    assert shown_numbers(path, len(right)) == pytest.approx(right, abs=0.3)
    check(path, "video")


@pytest.mark.parametrize("name", ["a.ts", "a.mpg"])
@pytest.mark.parametrize("later", [0, 500])
def test_two_films_joined(tmp_path, name, later):
    """Times jump back or ahead where two broadcasts were joined, but the video is continuous."""
    codec, options = ("libx264", B3) if name == "a.ts" else ("mpeg2video", MPEG | {"bf": 2, "rate": 25})
    first = write_grey_video(tmp_path / f"first{name}", codec, **options)
    second = copy_video(first, tmp_path / f"second{name}", shift=90000 * later)
    path = tmp_path / name
    path.write_bytes(first.read_bytes() + second.read_bytes())
    one = all_numbers(first)
    assert len(one) == 40
    right = [*one, *one]
    assert shown_numbers(path, 16) == pytest.approx([right[int((i + 0.5) * 5)] for i in range(16)], abs=0.3)
    check(path, "video")


def test_a_broadcast_whose_first_frames_cannot_be_decoded(tmp_path):
    """Frames before the first key frame are not shown and take no time."""
    whole = write_grey_video(tmp_path / "whole.ts", **X264 | {"bf": 0})
    with open_av(whole) as container:
        starts = [packet.pos for packet in container.demux(container.streams.video[0]) if packet.size]
    path = tmp_path / "later.ts"
    tables = whole.read_bytes()[: 3 * 188]  # what tracks there are
    path.write_bytes(tables + whole.read_bytes()[starts[5] :])
    right = all_numbers(path)
    assert len(right) < 35 and right[-1] == pytest.approx(39, abs=0.3)
    assert shown_numbers(path, len(right)) == pytest.approx(right, abs=0.3)


@pytest.mark.parametrize("codec, options", [("libx264", OPEN), ("libx264", B3), ("mpeg4", MPEG | {"bf": 2})])
def test_a_long_avi_is_searched_by_its_key_frames(tmp_path, monkeypatch, codec, options):
    path = write_grey_video(tmp_path / "a.avi", codec, 400, **options)
    decoded = []
    advance = FrameReaderByNumber._advance
    monkeypatch.setattr(FrameReaderByNumber, "_advance", lambda self: decoded.append(1) or advance(self))
    right = all_numbers(path)
    assert len(right) == 400
    assert shown_numbers(path, 4) == pytest.approx([right[i] for i in (50, 150, 250, 350)], abs=0.3)
    assert len(decoded) < 300
    decoded.clear()
    assert shown_numbers(path, 40) == pytest.approx(right[5::10], abs=0.3)


def test_packed_b_frames(tmp_path):
    """As in DivX files, a packet holds a frame and the B-frame before it, and the next packet is empty."""
    source = write_grey_video(tmp_path / "source.avi", "mpeg4", g=12, bf=1)
    start, path = b"\0\0\1\xb6", tmp_path / "packed.avi"  # of a frame
    with av.open(str(source)) as film, av.open(str(path), "w") as container:
        stream = film.streams.video[0]
        copy = container.add_stream_from_template(stream)
        mark = b"\0\0\1\xb2DivX503b1393p"
        copy.codec_context.extradata = stream.codec_context.extradata + mark
        packets = [bytes(packet) for packet in film.demux(stream) if packet.size]
        b_frame = [packet[packet.index(start) + 4] >> 6 == 2 for packet in packets]
        packets[0] = packets[0].replace(start, mark + start)
        for i in range(len(packets) - 1):
            if b_frame[i + 1]:
                packets[i : i + 2] = [packets[i] + packets[i + 1], start + bytes([0b01010000, 0b10011111])]
        for i, data in enumerate(packets):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts, packet.time_base = copy, i, i, Fraction(1, 10)
            packet.is_keyframe = i == 0
            container.mux(packet)
    assert sum(b_frame) > 10
    right = all_numbers(path)
    assert right == pytest.approx(range(40), abs=2.5)
    assert shown_numbers(path, 40) == pytest.approx(right, abs=0.3)
    check(path, "video")


def test_timelines(tmp_path):
    film = write_grey_video(tmp_path / "a.mp4", **B3)
    with open_av(film) as container:
        timeline = timeline_from_header(container, container.streams.video[0])
        assert timeline is not None and timeline.times is None
        assert (timeline.start, timeline.seconds, timeline.stated_end) == (0, 4.0, timeline.duration)
    with open_av(film) as container:
        assert timeline_from_packets(container, container.streams.video[0]) == timeline
    with open_av(write_grey_video(tmp_path / "a.avi", **B3)) as container:
        stream = container.streams.video[0]
        assert timeline_from_header(container, stream) is None
        timeline = timeline_from_packets(container, stream)
        assert timeline.packet_times == list(range(40)) and timeline.seconds == pytest.approx(4)
        assert timeline.times == list(range(2, 42))  # the decoder holds two packets back


@pytest.mark.parametrize("name, options", [("a.avi", B3), ("a.avi", X264 | {"bf": 0}), ("a.mkv", B3)])
def test_a_film_cut_short(tmp_path, name, options):
    path = write_grey_video(tmp_path / name, count=400, **options)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 5])
    with pytest.raises(MediaError, match=r"ends after \d+\.\d\d of (40\.0|39\.8)0 s: the file is cut short"):
        check(path, "video")
    with pytest.raises(MediaError, match="cut short"):
        shown_numbers(path, 8)
