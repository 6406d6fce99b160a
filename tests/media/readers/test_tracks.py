"""The choice of tracks in containers with several."""

from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from mmcl_fast.errors import MediaError
from mmcl_fast.media import check, decode, sniff
from mmcl_fast.media.readers.video.tracks import find_audio_track, find_video_track, is_cover, read_packets
from mmcl_fast.media.source import open_av
from tests.media.files import plain


def write_container(path: Path, *tracks: tuple) -> Path:
    """Write tracks ``(codec, frames, side in pixels or channels, flags)``, with half a second of audio."""
    with av.open(str(path), "w") as container:
        streams = []
        for codec, _, size, flags in tracks:
            if av.Codec(codec, "w").type == "audio":
                stream = container.add_stream(codec, rate=16000, layout={1: "mono", 2: "stereo", 6: "5.1"}[size])
            else:
                stream = container.add_stream(codec, rate=10)
                stream.width = stream.height = size
                stream.pix_fmt = {"png": "rgb24", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
            stream.disposition = Disposition(flags)
            streams.append(stream)
        for stream, (_, count, size, _) in zip(streams, tracks, strict=True):
            if stream.type == "audio":
                sound = np.zeros((1, 8000 * size), np.int16)
                frame = av.AudioFrame.from_ndarray(sound, "s16", stream.layout.name)
                frame.sample_rate = 16000
                packets = stream.encode(frame)
            else:
                packets = []
                for i in range(count):
                    grey = np.full((size, size, 3), 6 * i, np.uint8)
                    packets += stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24"))
            container.mux(packets + stream.encode(None))
    return path


@pytest.mark.parametrize(
    "name, tracks, film, sound",
    [
        ("one.mp4", [("libx264", 12, 32, 0)], 0, None),
        ("cover.mkv", [("mjpeg", 1, 64, 0), ("libx264", 12, 32, 1)], 1, None),
        ("cover-is-default.mkv", [("mjpeg", 1, 64, 1), ("libx264", 12, 32, 0)], 1, None),
        ("cover.mp4", [("mjpeg", 1, 64, 0), ("libx264", 12, 32, 0)], 1, None),
        ("cover.mov", [("png", 1, 64, 1), ("libx264", 12, 32, 0)], 1, None),
        ("cover.avi", [("mjpeg", 1, 64, 0), ("mpeg4", 12, 32, 0)], 1, None),
        ("cover-last.mkv", [("libx264", 12, 32, 0), ("mjpeg", 1, 64, 1)], 0, None),
        ("still.mp4", [("libx264", 1, 64, 1), ("libx264", 12, 32, 0)], 1, None),
        ("song.mkv", [("mjpeg", 1, 64, 0), ("aac", 0, 1, 0)], None, 1),
        ("song.mov", [("png", 1, 64, 0), ("aac", 0, 1, 0)], None, 1),
        ("film.mkv", [("mjpeg", 12, 64, 0), ("aac", 0, 1, 0)], 0, 1),
        ("one-picture.mkv", [("mjpeg", 1, 64, 0)], 0, None),
        ("larger.mkv", [("libx264", 12, 32, 0), ("libx264", 12, 64, 0)], 1, None),
        ("default.mkv", [("libx264", 12, 64, 0), ("libx264", 12, 32, 1)], 1, None),
        ("sounds.mkv", [("aac", 0, 1, 0), ("aac", 0, 2, 0)], None, 1),
        ("sounds-default.mkv", [("aac", 0, 1, 1), ("aac", 0, 2, 0)], None, 0),
        ("three.mka", [("aac", 0, 2, 0), ("aac", 0, 1, 0), ("aac", 0, 6, 0)], None, 2),
    ],
)
def test_the_tracks_chosen(tmp_path, name, tracks, film, sound):
    with open_av(write_container(tmp_path / name, *tracks)) as container:
        got = find_video_track(container), find_audio_track(container)
        assert [stream and stream.index for stream in got] == [film, sound]
        if film is not None:  # after the search for a second packet the container is at its start again
            count = sum(1 for _ in container.decode(got[0]))
            assert count == tracks[film][1]


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.mov", "a.avi"])
@pytest.mark.parametrize("first", [True, False])
def test_a_film_with_a_cover_is_sampled_without_it(tmp_path, name, first):
    tracks = [("mjpeg", 1, 64, 0), ("mpeg4" if name == "a.avi" else "libx264", 40, 32, 0)]
    path = write_container(tmp_path / name, *(tracks if first else tracks[::-1]))
    assert sniff(path) == "video"
    got = decode(path, "video", plain("video", 32, frames=8)).mean((1, 2, 3)) * 255 / 6
    assert got.tolist() == pytest.approx([2, 7, 12, 17, 22, 27, 32, 37], abs=0.8)
    check(path, "video")


@pytest.mark.parametrize("name", ["a.mkv", "a.mov", "a.avi"])
def test_a_song_with_a_cover_is_a_sound(tmp_path, name):
    path = write_container(tmp_path / name, ("mjpeg", 1, 64, 0), ("pcm_s16le", 0, 1, 0))
    assert sniff(path) == "audio"
    with pytest.raises(MediaError, match="holds no video track"):
        decode(path, "video")
    check(path, "audio")


def test_a_cover_is_known_by_its_flag(tmp_path):
    path = write_container(tmp_path / "song.mp4", ("aac", 0, 1, 0), ("mjpeg", 1, 64, int(Disposition.attached_pic)))
    with open_av(path) as container:
        assert [is_cover(stream) for stream in container.streams.video] == [True]
        assert find_video_track(container) is None and find_audio_track(container).index == 0
    path = write_container(tmp_path / "a.mp4", ("libx264", 3, 32, 1))
    with open_av(path) as container:
        assert not is_cover(container.streams.video[0])


def test_packets_before_a_reader_stumbles_are_kept():
    class Broadcast:
        def demux(self, stream):
            yield from "ab"
            raise IndexError

    assert list(read_packets(Broadcast(), None)) == ["a", "b"]
