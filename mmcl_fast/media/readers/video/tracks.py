"""The video track and the audio track of a container."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.stream import VideoStream

ATTACHED_PICTURE = 0x400  # AV_DISPOSITION_ATTACHED_PIC
DEFAULT = 0x1  # AV_DISPOSITION_DEFAULT
DEPENDENT = 0x80000  # AV_DISPOSITION_DEPENDENT: an enhancement layer, which shows nothing by itself
DEFAULT_BONUS = 5_000_000  # pixels or channels by which ffmpeg prefers a track that is marked as default
# Codecs of still images. A track of one such image is a cover, whatever the container says about it.
IMAGE_CODECS = (
    "bmp",
    "gif",
    "jpeg2000",
    "jpegls",
    "libjxl",
    "mjpeg",
    "pbm",
    "pcx",
    "pgm",
    "png",
    "ppm",
    "tiff",
    "webp",
)


def is_cover(stream: Any) -> bool:
    """Return whether a video stream is marked as an image attached to a recording."""
    return bool(int(stream.disposition) & ATTACHED_PICTURE)


def find_video_track(container: InputContainer) -> VideoStream | None:
    """Return the video track that FFmpeg would choose: the largest one. None: there is none.

    The track that is marked as default counts as larger by ``DEFAULT_BONUS`` pixels. Attached images do not count.
    Neither does a track of one image if the container has other tracks.
    """
    tracks = [stream for stream in container.streams.video if not is_cover(stream)]
    if len(tracks) > 1 or container.streams.audio:
        tracks = [stream for stream in tracks if not _is_one_image(container, stream)]
    if any(stream.frames > 1 for stream in tracks):
        tracks = [stream for stream in tracks if stream.frames != 1]
    return max(tracks, key=_video_score, default=None)


def find_audio_track(container: InputContainer) -> AudioStream | None:
    """Return the audio track that FFmpeg would choose: the default one, then the one with most channels, or None."""
    return max(container.streams.audio, key=_audio_score, default=None)


def read_packets(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the packets of a track; an empty last one makes the decoder return the frames that it holds back."""
    try:
        yield from container.demux(stream)
    except IndexError:
        return  # PyAV fails at the end of a broadcast in which further tracks began


def _video_score(stream: VideoStream) -> tuple[bool, bool, int]:
    context = stream.codec_context
    pixels = 0 if context is None else context.width * context.height
    readable = context is not None and not int(stream.disposition) & DEPENDENT
    return readable, pixels > 0, pixels + _bonus(stream)


def _audio_score(stream: AudioStream) -> tuple[bool, int]:
    context = stream.codec_context
    return context is not None, (0 if context is None else context.channels) + _bonus(stream)


def _bonus(stream: Any) -> int:
    return DEFAULT_BONUS if int(stream.disposition) & DEFAULT else 0


def _is_one_image(container: InputContainer, stream: VideoStream) -> bool:
    """Return whether the track holds one image only, although the container does not mark it as attached."""
    context = stream.codec_context
    if context is None or context.name not in IMAGE_CODECS:
        return False
    if stream.frames:
        return stream.frames == 1
    if len(stream.index_entries) > 1:
        return False
    # Nothing states the count, as in Matroska. A video's second packet comes early; a cover costs one pass.
    packets = (packet for packet in read_packets(container, stream) if packet.size)
    single = next(packets, None) is None or next(packets, None) is None
    container.seek(0)
    return single
