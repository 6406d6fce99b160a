"""The modality of a file by its content; its name does not count."""

from __future__ import annotations

import io
from itertools import islice

from mmcl_fast.errors import MediaError
from mmcl_fast.media import formats, signatures
from mmcl_fast.media.formats import FFMPEG, PILLOW, PILLOW_FORMATS, Format
from mmcl_fast.media.readers.video.tracks import find_audio_track, find_video_track
from mmcl_fast.media.source import Source, head, name_of, open_binary, open_container

EXR = b"\x76\x2f\x31\x01"
FRAMES_OF_PROOF = 8  # frames to decode without an error, or all of fewer
LISTS_ALL_TRACKS = ("MP4", "Matroska")  # whose headers tell all tracks, so that no packet has to be looked into
HEADER_ONLY = {"analyzeduration": "1"}  # microseconds
MIN_FRAMES = {"video": 1, "audio": 3}  # frames that noise rarely makes


def sniff(source: Source) -> str:
    """image, video, audio, depth or text.

    A grey picture of more than 8 bits, a float TIFF, OpenEXR and a .npy plane are depth; an animated GIF, WebP, PNG or
    AVIF and a container with moving pictures are video. Raises MediaError for anything else or nothing.
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
            f"{name_of(source)}: neither picture, video, sound, depth map nor UTF-8 text: "
            "convert it to a common format such as png, mp4, wav or txt"
        )
    return kind


def _find_modality(source: Source, start: bytes, row: Format | None) -> str | None:
    """``start``: the first bytes, of which ``row`` is what the table makes; None: the file is nothing that is read."""
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
    return kind or ("text" if signatures.is_utf8(start) else None)  # the mark was a word after all


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
    except Exception:  # a header parser that is given broken bytes may raise anything
        return None


def _audio_modality(source: Source) -> str | None:
    import soundfile

    try:
        with open_binary(source) as file, soundfile.SoundFile(file) as opened:
            return "audio" if opened.frames else None
    except (soundfile.LibsndfileError, OSError, ValueError):
        return None


def _track_modality(source: Source, row: Format | None) -> str | None:
    """``row``: None where no mark tells the format. Then frames must decode, because a demuxer may take noise for its
    own."""
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
    """What the libraries read although no mark begins it: raw streams, recordings that begin within a frame or behind
    junk."""
    return _audio_modality(source) or _track_modality(source, None)
