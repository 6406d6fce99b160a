import io

import numpy as np
import pytest
import torch
from PIL import Image

from mmcl_fast.errors import MediaError
from mmcl_fast.media import check, decode
from mmcl_fast.media.readers.video.frame_reader import FrameReaderByTime, SelectiveDecoder
from tests.media.files import counting_video, numbers, plain, quarters


@pytest.mark.parametrize(
    "name, codec, count, gop",
    [
        ("a.mp4", "libx264", 40, 12),
        ("long.mp4", "libx264", 400, 25),
        ("long.mkv", "libx264", 400, 25),
        ("a.webm", "libvpx-vp9", 30, 10),
        ("a.avi", "mjpeg", 30, 1),
        ("a.mp4", "libx265", 30, 10),
        ("long.ts", "libx264", 150, 25),
        ("long.avi", "mpeg4", 150, 12),
    ],
)
def test_frames_are_uniform_over_the_duration(tmp_path, name, codec, count, gop):
    path = counting_video(tmp_path / name, count, codec, gop=gop)
    for frames in (1, 4, 8):
        got = decode(path, "video", plain("video", 80, frames=frames))
        assert got.shape == (frames, 3, 80, 80)
        assert numbers(got) == [int((i + 0.5) * count / frames) for i in range(frames)]
    check(path, "video")


def test_bytes_and_raw_streams(tmp_path):
    path = counting_video(tmp_path / "a.mp4", 40)
    spec = plain("video", 80, frames=4)
    assert torch.equal(decode(path.read_bytes(), "video", spec), decode(path, "video", spec))
    raw = counting_video(tmp_path / "a.h264", 20)  # no container: no duration, no times
    assert numbers(decode(raw, "video", spec)) == [2, 7, 12, 17]


def test_seeking_decodes_less(tmp_path, monkeypatch):
    path = counting_video(tmp_path / "long.mp4", 500, gop=10)
    decoded = []
    advance = FrameReaderByTime._advance
    monkeypatch.setattr(FrameReaderByTime, "_advance", lambda self: decoded.append(1) or advance(self))
    got = decode(path, "video", plain("video", 80, frames=4))
    assert numbers(got) == [62, 187, 312, 437]
    assert len(decoded) < 100


@pytest.mark.parametrize(
    "name, codec, options, skipped",
    [
        ("a.mp4", "libx264", {"preset": "medium", "bf": "3", "b_strategy": "0"}, 0.3),
        ("a.mkv", "libx264", {"preset": "medium", "bf": "8", "x264-params": "b-adapt=0:b-pyramid=none"}, 0.6),
        ("a.ts", "libx264", {"preset": "medium", "x264-params": "b-adapt=0:open-gop=1"}, 0.3),
        ("a.mp4", "libx265", {"preset": "fast", "x265-params": "bframes=4:b-adapt=0:log-level=none"}, 0.3),
        ("a.mp4", "mpeg4", {"bf": "2"}, 0.4),
        ("a.ts", "mpeg2video", {"bf": "2"}, 0.4),
        ("a.avi", "mjpeg", {}, 0.6),
        ("a.webm", "libvpx-vp9", {"deadline": "good", "cpu-used": "4", "lag-in-frames": "16", "auto-alt-ref": "1"}, 0),
    ],
)
@pytest.mark.parametrize("uneven", [False, True])
def test_what_is_skipped_changes_nothing(tmp_path, monkeypatch, name, codec, options, skipped, uneven):
    count = 60
    uneven = uneven and name[-3:] in ("mp4", "mkv")
    times = [2 * i + 3 * (i // 4) + (i % 7 == 3) for i in range(count)] if uneven else None
    path = counting_video(tmp_path / name, count, codec, gop=30, times=times, **options)
    decoded = []
    advance = FrameReaderByTime._advance
    monkeypatch.setattr(FrameReaderByTime, "_advance", lambda self: decoded.append(1) or advance(self))
    spec = plain("video", 80, frames=6)
    fast, less = decode(path, "video", spec), len(decoded)
    monkeypatch.setattr(SelectiveDecoder, "_can_skip", lambda *_: False)
    monkeypatch.setattr(SelectiveDecoder, "shows", lambda *_: False)
    assert torch.equal(decode(path, "video", spec), fast)
    assert less <= (1 - skipped) * (len(decoded) - less)
    if not uneven:
        assert numbers(fast) == [5, 15, 25, 35, 45, 55]


def test_more_frames_than_there_are(tmp_path):
    got = decode(counting_video(tmp_path / "a.mp4", 3), "video", plain("video", 80, frames=6))
    assert numbers(got) == [0, 0, 1, 1, 2, 2]


def test_rotation_is_applied(tmp_path):
    import av

    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.set_display_rotation(90)
        pixels = np.zeros((64, 96, 3), np.uint8)
        pixels[:, 48:] = 255  # bright on the right: on top after a quarter turn counterclockwise
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    got = decode(path, "video", plain("video", 32, frames=1))[0, 0]
    assert got[:12].min() > 0.9 and got[20:].max() < 0.1


def test_crop_and_colours(tmp_path):
    import av

    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 192, 64, "yuv420p"
        pixels = np.zeros((64, 192, 3), np.uint8)
        pixels[:, 64:128] = (200, 60, 30)
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    got = decode(path, "video", plain("video", 32, resize="crop"))[0, :, 4:-4, 4:-4] * 255
    assert (got - torch.tensor([200.0, 60, 30]).view(3, 1, 1)).abs().max() <= 6


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animated_pictures_count_durations(kind):
    """The second frame is shown as long as the other two together."""
    frames = [Image.new("RGB", (16, 16), (level, level, level)) for level in (0, 120, 240)]
    data = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(data, kind, save_all=True, append_images=frames[1:], duration=[100, 200, 100], **options)
    got = decode(data.getvalue(), "video", plain("video", 8, frames=4)).mean((1, 2, 3)) * 255
    assert got.tolist() == pytest.approx([0, 120, 120, 240], abs=1)


def test_transparent_animation_lies_on_white():
    frames = [Image.new("RGBA", (16, 16), (0, 0, 0, 0)), Image.new("RGBA", (16, 16), (0, 0, 0, 255))]
    data = io.BytesIO()
    frames[0].save(data, "WEBP", save_all=True, append_images=frames[1:], duration=100, lossless=True)
    got = decode(data.getvalue(), "video", plain("video", 8, frames=2))
    assert got[0].min() == 1 and got[1].max() == 0


def test_refusals(tmp_path):
    path = counting_video(tmp_path / "a.mp4", 40)
    with pytest.raises(MediaError, match="80 x 80 pixels a frame.*max_pixels"):
        decode(path, "video", plain("video", max_pixels=1000))
    with pytest.raises(MediaError, match="lasts 2 s, the limit is 1 s"):
        decode(path, "video", plain("video", max_seconds=1))
    still = tmp_path / "still.png"
    quarters().save(still)
    with pytest.raises(MediaError, match="still.png: a still image"):
        decode(still, "video")


def test_a_truncated_video_is_an_error(tmp_path):
    path = counting_video(tmp_path / "a.mkv", 200)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match="a.mkv: ends after .* of 8.00 s: the file is cut short"):
        check(path, "video")
    with pytest.raises(MediaError, match="cut short"):
        decode(path, "video", plain("video", frames=4))
