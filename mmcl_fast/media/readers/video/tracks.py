"""Which track of a container is its film and which its sound."""

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
# Codecs of pictures. A track of one such picture is a cover, whatever the container says about it.
PICTURE_CODECS = (
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
    """Whether a video stream is marked as a picture attached to a recording."""
    return bool(int(stream.disposition) & ATTACHED_PICTURE)


def find_video_track(container: InputContainer) -> VideoStream | None:
    """The film that ffmpeg would choose: the default track, then the largest one. None: there is none.

    Attached pictures do not count. Neither does a track of one picture beside a film or a sound.
    """
    films = [stream for stream in container.streams.video if not is_cover(stream)]
    if len(films) > 1 or container.streams.audio:
        films = [stream for stream in films if not _is_one_picture(container, stream)]
    if any(stream.frames > 1 for stream in films):
        films = [stream for stream in films if stream.frames != 1]
    return max(films, key=_video_score, default=None)


def find_audio_track(container: InputContainer) -> AudioStream | None:
    """The sound that ffmpeg would choose: the default track, then the one of most channels. None: there is none."""
    return max(container.streams.audio, key=_audio_score, default=None)


def read_packets(container: Any, stream: Any) -> Iterator[Any]:
    """The packets of a track, the last one empty, so that the decoder gives out what it holds."""
    try:
        yield from container.demux(stream)
    except IndexError:
        return  # PyAV stumbles at the end of a broadcast in which further tracks began


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


def _is_one_picture(container: InputContainer, stream: VideoStream) -> bool:
    """Whether the track holds one picture only, although the container does not mark it as attached."""
    context = stream.codec_context
    if context is None or context.name not in PICTURE_CODECS:
        return False
    if stream.frames:
        return stream.frames == 1
    if len(stream.index_entries) > 1:
        return False
    # Nothing states the count, as in Matroska. A film's second packet comes early; a cover costs one pass.
    packets = (packet for packet in read_packets(container, stream) if packet.size)
    single = next(packets, None) is None or next(packets, None) is None
    container.seek(0)
    return single
