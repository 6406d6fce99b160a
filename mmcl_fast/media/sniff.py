"""The modality of a file by its content; its name does not count."""

from __future__ import annotations

import codecs

from mmcl_fast.errors import MediaError
from mmcl_fast.media.source import FORMATS, Source, head, is_cover, name_of, open_av, open_binary

PICTURES = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF8",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"\0\0\0\x0cjP  ",
    b"P4",
    b"P5",
    b"P6",
)
EXR = b"\x76\x2f\x31\x01"
SOUNDS = (b"fLaC", b"ID3", b"FORM", b"caff", b"#!AMR")
CONTAINERS = (b"\x1aE\xdf\xa3", b"OggS", b"RIFF", b"FLV", b"\0\0\x01\xba", b"\0\0\x01\xb3", b"0&\xb2u")
PICTURE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1")


def sniff(source: Source) -> str:
    """image, video, audio, depth or text.

    A grey picture of more than 8 bits, a float TIFF, OpenEXR and a .npy plane are depth; an animated GIF, WebP or PNG
    and a container with moving pictures are video. Raises MediaError for anything else or nothing.
    """
    try:
        start = head(source, 1 << 16)
    except OSError as error:
        raise MediaError(f"{name_of(source)}: {error.strerror or error}: check the path") from None
    if not start:
        raise MediaError(f"{name_of(source)}: the file is empty: replace or remove it")
    kind = _kind(source, start)
    if kind is None:
        raise MediaError(
            f"{name_of(source)}: neither picture, video, sound, depth map nor UTF-8 text: "
            "convert it to a common format such as png, mp4, wav or txt"
        )
    return kind


def _kind(source: Source, start: bytes) -> str | None:
    if start.startswith((b"\x93NUMPY", EXR)):
        return "depth"
    if start.startswith(b"RIFF") and start[8:12] == b"WAVE":
        return "audio"
    if start.startswith(PICTURES) or start[8:12] == b"WEBP" or start[8:12] in PICTURE_BRANDS:
        kind = _picture(source)
        if kind or not start.startswith((b"BM", b"P")):  # two letters may also begin a text
            return kind
    if start.startswith(SOUNDS):
        return "audio"
    if start.startswith(CONTAINERS) or start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
        return _tracks(source)
    if _is_text(start):
        return "text"
    # MPEG audio and transport streams have no magic worth the name: a sync word decides, then the tracks.
    if start[0] == 0x47 or (start[0] == 0xFF and len(start) > 1 and start[1] & 0xE0 == 0xE0):
        return _tracks(source)
    return None


def _picture(source: Source) -> str | None:
    from PIL import Image

    try:
        with open_binary(source) as file, Image.open(file, formats=FORMATS) as im:
            if getattr(im, "n_frames", 1) > 1 and im.format in ("GIF", "WEBP", "PNG", "AVIF"):
                return "video"
            return "depth" if im.mode[0] in "IF" else "image"
    except Exception:  # a header parser that is given broken bytes may raise anything
        return None


def _tracks(source: Source) -> str | None:
    import av

    try:
        with open_av(source) as container:
            if any(not is_cover(stream) for stream in container.streams.video):
                return "video"
            return "audio" if container.streams.audio else None
    except (av.FFmpegError, OSError, ValueError):
        return None


def _is_text(start: bytes) -> bool:
    if b"\0" in start:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start, final=False)
    except UnicodeDecodeError:
        return False
    return True
