"""The modality of a file by its content. The name of the file does not count."""

from __future__ import annotations

import io
from itertools import islice

from mmcl_fast.errors import MediaError
from mmcl_fast.media import formats, signatures
from mmcl_fast.media.formats import FFMPEG, PILLOW, PILLOW_FORMATS, Format
from mmcl_fast.media.readers.video.tracks import find_audio_track, find_video_track
from mmcl_fast.media.source import Source, head, name_of, open_binary, open_container

EXR = b"\x76\x2f\x31\x01"
FRAMES_OF_PROOF = 8  # frames that must decode where no magic bytes prove the format, or all of a shorter file
LISTS_ALL_TRACKS = ("MP4", "Matroska")  # formats whose header lists all tracks, so that FFmpeg need not read packets
HEADER_ONLY = {"analyzeduration": "1"}  # microseconds
MIN_FRAMES = {"video": 1, "audio": 3}  # frames; noise rarely decodes to so many


def sniff(source: Source) -> str:
    """Return the modality of a file: image, video, audio, depth or text.

    Depth is a grey image of more than 8 bits, a float TIFF, OpenEXR or a .npy plane. Video is an animated GIF, WebP,
    PNG or AVIF, or a container with a video track.

    Raises:
        MediaError: the file is missing, empty, or of no modality.
    """
    try:
        start = head(source, formats.HEAD)
    except OSError as error:
        raise MediaError(f"{name_of(source)}: {error.strerror or error}: check the path") from None
    if not start:
        raise MediaError(f"{name_of(source)}: the file is empty: replace or remove it")
    row = formats.recognise(start)
    if row is not None and not row.library:
        raise MediaError(f"{name_of(source)}: {row.refusal}")
    kind = _find_modality(source, start, row)
    if kind is None:
        raise MediaError(
            f"{name_of(source)}: neither image, video, audio, depth map nor UTF-8 text: "
            "convert it to a common format such as png, mp4, wav or txt"
        )
    return kind


def _find_modality(source: Source, start: bytes, row: Format | None) -> str | None:
    """Return the modality; None for a file that nothing reads.

    Args:
        source: the file.
        start: its first bytes.
        row: the format that the table recognises by them; None: unknown.
    """
    if row is None:
        return _modality_without_mark(source)
    if row.tells_modality:
        return row.modalities[0]
    if row.library == PILLOW:
        kind = _image_modality(source, start, row)
    else:
        kind = (
            _track_modality(source, row) if row.library == FFMPEG else _audio_modality(source)
        ) or _modality_without_mark(source)
    return kind or ("text" if signatures.is_utf8(start) else None)  # the magic bytes were a word after all


def _image_modality(source: Source, start: bytes, row: Format) -> str | None:
    from PIL import Image

    from mmcl_fast.media.readers.image import high_bit_depth
    from mmcl_fast.media.readers.video import animation

    try:
        # A file that is no longer than its head is not opened again.
        with io.BytesIO(start) if len(start) < formats.HEAD else open_binary(source) as file:
            if row.name in ("TIFF", "PPM") and (kind := high_bit_depth.find_modality(file)) is not None:
                return kind
            file.seek(0)
            with Image.open(file, formats=PILLOW_FORMATS) as im:
                if im.format in animation.ANIMATED_FORMATS and len(animation.frame_numbers(im)) > 1:
                    return "video"
                return "depth" if im.mode[0] in "IF" else "image"
    except Exception:  # broken bytes make a parser of headers raise anything
        return None


def _audio_modality(source: Source) -> str | None:
    import soundfile

    try:
        with open_binary(source) as file, soundfile.SoundFile(file) as opened:
            return "audio" if opened.frames else None
    except (soundfile.LibsndfileError, OSError, ValueError):
        return None


def _track_modality(source: Source, row: Format | None) -> str | None:
    """Return video or audio by the tracks that FFmpeg finds; None where it finds none.

    ``row``: the recognised format. Without one some frames must decode, because a demuxer may accept noise.
    """
    import av

    options = HEADER_ONLY if row is not None and row.name in LISTS_ALL_TRACKS else {}
    try:
        with open_container(source, **options) as container:
            track = find_video_track(container) or find_audio_track(container)
            if track is None:
                return None
            if (
                row is None
                and sum(1 for _ in islice(container.decode(track), FRAMES_OF_PROOF)) < MIN_FRAMES[track.type]
            ):
                return None
            return track.type
    except (av.FFmpegError, MediaError, OSError, ValueError):
        return None


def _modality_without_mark(source: Source) -> str | None:
    """Return the modality of a file without magic bytes that a library reads all the same.

    Such files are raw streams, and recordings that begin within a frame or behind junk.
    """
    return _audio_modality(source) or _track_modality(source, None)
