"""The modality of a file by its content; its name does not count."""

from __future__ import annotations

import io
from itertools import islice

from mmcl_fast.errors import MediaError
from mmcl_fast.media import formats, signatures
from mmcl_fast.media.formats import FFMPEG, FORMATS, PILLOW, Format
from mmcl_fast.media.readers.video.tracks import audio_track, video_track
from mmcl_fast.media.source import Source, head, name_of, open_binary, open_container

EXR = b"\x76\x2f\x31\x01"
PROOF = 8  # frames to decode without an error, or all of fewer
HEADED = ("MP4", "Matroska")  # whose headers tell all tracks, so that no packet has to be looked into
HEADER_ONLY = {"analyzeduration": "1"}  # microseconds
LEAST = {"video": 1, "audio": 3}  # frames that noise rarely makes


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
    kind = _kind(source, start, row)
    if kind is None:
        raise MediaError(
            f"{name_of(source)}: neither picture, video, sound, depth map nor UTF-8 text: "
            "convert it to a common format such as png, mp4, wav or txt"
        )
    return kind


def _kind(source: Source, start: bytes, row: Format | None) -> str | None:
    """``start``: the first bytes, of which ``row`` is what the table makes; None: the file is nothing that is read."""
    if row is None:
        return _unmarked(source)
    if row.sure:
        return row.modalities[0]
    if row.library == PILLOW:
        kind = _picture(source, start, row)
    else:
        kind = (_tracks(source, row) if row.library == FFMPEG else _sound(source)) or _unmarked(source)
    return kind or ("text" if signatures.utf8(start) else None)  # the mark was a word after all


def _picture(source: Source, start: bytes, row: Format) -> str | None:
    from PIL import Image

    from mmcl_fast.media.readers.image import high_bit_depth
    from mmcl_fast.media.readers.video import animation

    try:
        # A file that is no longer than its head is not opened again.
        with io.BytesIO(start) if len(start) < formats.HEAD else open_binary(source) as file:
            if row.name in ("TIFF", "PPM") and (kind := high_bit_depth.modality(file)) is not None:
                return kind
            file.seek(0)
            with Image.open(file, formats=FORMATS) as im:
                if im.format in animation.FORMATS and len(animation.frame_numbers(im)) > 1:
                    return "video"
                return "depth" if im.mode[0] in "IF" else "image"
    except Exception:  # a header parser that is given broken bytes may raise anything
        return None


def _sound(source: Source) -> str | None:
    import soundfile

    try:
        with open_binary(source) as file, soundfile.SoundFile(file) as opened:
            return "audio" if opened.frames else None
    except (soundfile.LibsndfileError, OSError, ValueError):
        return None


def _tracks(source: Source, row: Format | None) -> str | None:
    """``row``: None where no mark tells the format. Then frames must decode, because a demuxer may take noise for its
    own."""
    import av

    options = HEADER_ONLY if row is not None and row.name in HEADED else {}
    try:
        with open_container(source, **options) as container:
            track = video_track(container) or audio_track(container)
            if track is None:
                return None
            if row is None and sum(1 for _ in islice(container.decode(track), PROOF)) < LEAST[track.type]:
                return None
            return track.type
    except (av.FFmpegError, MediaError, OSError, ValueError):
        return None


def _unmarked(source: Source) -> str | None:
    """What the libraries read although no mark begins it: raw streams, recordings that begin within a frame or behind
    junk."""
    return _sound(source) or _tracks(source, None)
