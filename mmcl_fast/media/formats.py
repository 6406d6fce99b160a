"""The formats of files: one table for recognition, the readers, the folder reader and the messages."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace

from mmcl_fast.media import signatures
from mmcl_fast.media.signatures import HEAD, Test, at, brand, holds
from mmcl_fast.media.system_files import is_clutter

__all__ = [
    "DEMUXERS",
    "ENDINGS",
    "FORMATS",
    "HEAD",
    "TABLE",
    "UNREAD_ENDINGS",
    "Format",
    "is_clutter",
    "recognise",
    "writing",
]

PILLOW, SOUNDFILE, FFMPEG, OWN = "Pillow", "soundfile", "FFmpeg", "mmcl_fast"


@dataclass(frozen=True)
class Format:
    """One row of the table.

    Attributes:
        name: as messages say it.
        modalities: that such a file may hold.
        library: that reads it: PILLOW, SOUNDFILE, FFMPEG or OWN; "" where nothing reads it.
        readers: the library's own names: Pillow's formats, FFmpeg's demuxers.
        endings: usual endings of file names, in lower case.
        marks: bytes that it begins with, one of them; none: only ``test`` tells it.
        test: what else its first bytes hold.
        sure: whether mark and test tell the modality, so that no library has to open the file.
        written: whether such a file may be valid UTF-8 from end to end.
        advice: what to do with a file that nothing reads.
    """

    name: str
    modalities: tuple[str, ...]
    library: str
    readers: tuple[str, ...] = ()
    endings: tuple[str, ...] = ()
    marks: tuple[bytes, ...] = ()
    test: Test | None = None
    sure: bool = False
    written: bool = False
    advice: str = ""

    @property
    def refusal(self) -> str:
        """What is said of a file that nothing reads."""
        return f"{self.name}, which is not read: {self.advice}"


def _row(
    library: str, kinds: str, readers: str, name: str, endings: str, *marks: bytes, test: Test | None = None
) -> Format:
    return Format(name, tuple(kinds.split()), library, tuple(readers.split()), tuple(endings.split()), marks, test)


def _pillow(kinds: str, reader: str, endings: str, *marks: bytes, test: Test | None = None) -> Format:
    return _row(PILLOW, kinds, reader, reader, endings, *marks, test=test)


def _sound(name: str, endings: str, *marks: bytes, test: Test | None = None) -> Format:
    return _row(SOUNDFILE, "audio", "", name, endings, *marks, test=test)


def _av(kinds: str, readers: str, name: str, endings: str, *marks: bytes, test: Test | None = None) -> Format:
    return _row(FFMPEG, kinds, readers, name, endings, *marks, test=test)


def _unread(kinds: str, name: str, endings: str, advice: str, *marks: bytes, test: Test | None = None) -> Format:
    return replace(_row("", kinds, "", name, endings, *marks, test=test), advice=advice)


def _sure(row: Format) -> Format:
    return replace(row, sure=True)


def _written(row: Format) -> Format:
    return replace(row, written=True)


TO_PICTURE = "convert it to JPEG or PNG"
TO_SOUND = "convert it to WAV or FLAC"
TO_FILM = "convert it to MP4 or MKV"
TO_WORDS = "save its words as UTF-8 text, or its pages as PNG"
TO_TEXT = "save it as UTF-8"
UNPACK = "unpack it"
DEVELOP = "export it as JPEG, PNG or TIFF"

_PICTURES = (
    _pillow("image", "JPEG", "jpg jpeg jpe jfif", b"\xff\xd8\xff"),
    _pillow("image depth video", "PNG", "png apng", b"\x89PNG\r\n\x1a\n"),
    _pillow("image video", "GIF", "gif", b"GIF87a", b"GIF89a"),
    _pillow("image video", "WEBP", "webp", b"RIFF", test=at(8, b"WEBP")),
    _pillow("image depth", "TIFF", "tif tiff btf", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"MM*\0", b"II\0*"),
    _pillow("image", "BMP", "bmp", b"BM"),
    _pillow("image depth", "JPEG2000", "jp2 j2k jpx jpf j2c", b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
    _pillow("image video", "AVIF", "avif avifs", test=signatures.avif),
    _pillow("image depth", "PPM", "ppm pgm pbm pnm pfm pam", b"P", test=signatures.pnm),
    _written(_pillow("image depth", "PPM", "", test=signatures.written_pnm)),
    _sure(_row(OWN, "depth", "", "OpenEXR", "exr", b"\x76\x2f\x31\x01")),
    _sure(_row(OWN, "depth", "", "NumPy's array", "npy", b"\x93NUMPY")),
)

_SOUNDS = (
    _sure(_sound("WAV", "wav wave bwf", b"RIFF", b"RIFX", test=at(8, b"WAVE"))),
    _sure(_sound("RF64", "rf64", b"RF64", test=at(8, b"WAVE"))),
    _sure(_sound("Wave64", "w64", b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0")),
    _sure(_sound("FLAC", "flac", b"fLaC\0\0\0\x22", b"fLaC\x80\0\0\x22")),
    _sure(_sound("AIFF", "aif aiff aifc svx 8svx", b"FORM", test=signatures.aiff)),
    _sure(_sound("CAF", "caf", b"caff\0\x01")),
    _sure(_sound("MP3", "mp3", b"ID3", test=signatures.id3)),
    _sound("AU", "au snd", b".snd", b"dns."),
    _sound("NIST SPHERE", "sph nist", b"NIST_1A"),
    _sound("VOC", "voc", b"Creative Voice File\x1a"),
    _sound(
        "IRCAM",
        "ircam",
        *(bytes((0x64, 0xA3, i, 0)) for i in range(1, 5)),
        *(bytes((0, i, 0xA3, 0x64)) for i in range(1, 5)),
    ),
    _sound("MATLAB's array of sound", "", b"MATLAB 5.0 MAT-file", b"\0\0\0\0\x01\0\0\0", b"\0\0\x03\xe8\0\0\0\x01"),
    _sound("PARIS", "paf", b" paf", b"fap "),
    _sound("PVF", "pvf", b"PVF1\n"),
    _sound("AVR", "avr", b"2BIT"),
    _sound("WVE", "wve", b"ALawSoundFile**"),
    _sound("XI", "xi", b"Extended Instrument: "),
    _sound("SDS", "sds", b"\xf0\x7e"),
)

_STREAMS = (
    _av("video audio", "avi", "AVI", "avi", b"RIFF", test=at(8, b"AVI ")),
    _av("audio", "wav", "BW64", "bw64", b"BW64", test=at(8, b"WAVE")),
    _av("audio", "ogg", "Ogg sound", "oga opus spx"),
    _av("video audio", "ogg", "Ogg", "ogg ogv ogx", b"OggS\0"),
    _av("video audio", "mov mp4 m4a 3gp 3g2 mj2", "MP4", "mp4 mov m4v 3gp 3g2 f4v", test=signatures.box),
    _av("audio", "mov", "MP4 sound", "m4a m4b 3ga"),
    _av("video audio", "matroska webm", "Matroska", "mkv webm", b"\x1aE\xdf\xa3"),
    _av("audio", "matroska webm", "Matroska sound", "mka weba"),
    _av("video audio", "flv", "Flash Video", "flv", b"FLV\x01"),
    _av("video audio", "asf", "ASF", "asf wmv", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    _av("audio", "asf", "ASF sound", "wma"),
    _av("video audio", "mpeg", "MPEG program stream", "mpg mpeg vob", b"\0\0\x01\xba"),
    _av("video audio", "mpegts", "MPEG transport stream", "mts m2ts m2t", b"G"),
    _av("video", "mpegvideo", "raw MPEG video", "m1v m2v mpv", b"\0\0\x01\xb3"),
    _av("video", "m4v", "raw MPEG-4 video", "", b"\0\0\x01\xb0"),
    _av("video", "h264", "raw H.264", "h264 264 avc", b"\0\0\0\x01", b"\0\0\x01"),
    _av("video", "hevc", "raw H.265", "h265 265 hevc"),
    _av("video", "ivf", "IVF", "ivf", b"DKIF\0\0\x20\0"),
    _av("video", "obu", "raw AV1", "obu", b"\x12\0\x0a"),
    _av("video", "yuv4mpegpipe", "YUV4MPEG2", "y4m", b"YUV4MPEG2 "),
    _av("video audio", "mxf", "MXF", "mxf", b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01\x02"),
    _av("video", "dv", "DV", "dv", b"\x1f\x07\0"),
    _av("audio", "mp3 aac", "MPEG sound", "mp2 mpa aac adts", b"\xff", test=signatures.mpeg_sync),
    _sure(_av("audio", "amr", "AMR", "amr awb", b"#!AMR\n", b"#!AMR-WB\n")),
    _av("audio", "ac3 eac3", "AC-3", "ac3 eac3 ec3", b"\x0b\x77", b"\x77\x0b"),
    _av("audio", "wv", "WavPack", "wv", b"wvpk"),
    _av("audio", "tta", "True Audio", "tta", b"TTA1"),
    # FFmpeg's own readers, for codecs that libsndfile refuses.
    _av("audio", "flac w64 aiff caf", "sound that libsndfile refuses", ""),
)

_UNREAD = (
    _unread("image", "HEIC", "heic heif hif", TO_PICTURE, test=signatures.heif),
    _unread("image", "a camera's raw picture (CR3)", "cr3", DEVELOP, test=brand(b"crx ")),
    _unread("image", "a camera's raw picture", "raf", DEVELOP, b"FUJIFILMCCD-RAW"),
    _unread("image", "a camera's raw picture", "orf rw2 x3f", DEVELOP, b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb"),
    _unread(
        "image",
        "a camera's raw picture",
        "cr2 dng nef nrw arw sr2 pef srw 3fr erf kdc mef mos rwl",
        DEVELOP,
        b"II*\0",
        b"MM\0*",
        test=signatures.camera_raw,
    ),
    _unread("image", "JPEG XL", "jxl", TO_PICTURE, b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a"),
    _unread("image", "JPEG XR", "jxr wdp hdp", TO_PICTURE, b"II\xbc\x01"),
    _unread("image", "a Photoshop document", "psd psb", TO_PICTURE, b"8BPS\0\1", b"8BPS\0\2"),
    _unread("image", "a GIMP document", "xcf", TO_PICTURE, b"gimp xcf "),
    _unread("image", "an icon", "ico cur", TO_PICTURE, b"\0\0\1\0", b"\0\0\2\0", test=signatures.icon),
    _unread("image", "an icon", "icns", TO_PICTURE, b"icns\0"),
    _unread("image", "QOI", "qoi", TO_PICTURE, b"qoif\0"),
    _unread("image", "PCX", "pcx", TO_PICTURE, b"\x0a\x05\x01\x08", b"\x0a\x03\x01\x08"),
    _unread("image", "DDS", "dds", TO_PICTURE, b"DDS \x7c\0\0\0"),
    _unread("image", "DjVu", "djvu", TO_PICTURE, b"AT&TFORM"),
    _unread("image", "a Windows metafile", "wmf emf", TO_PICTURE, b"\xd7\xcd\xc6\x9a", b"\1\0\x09\0\0\3"),
    _unread("image", "DICOM", "dcm", "convert it to PNG, of 16 bits where it has so many", test=at(128, b"DICM")),
    _unread("image", "Radiance HDR", "hdr", "convert it to PNG or OpenEXR", b"#?RADIANCE\n", b"#?RGBE\n"),
    _unread("audio", "MIDI, which is notes and no sound", "mid midi", "render it to WAV", b"MThd\0\0\0\6"),
    _unread("audio", "Monkey's Audio", "ape", TO_SOUND, b"MAC "),
    _unread("audio", "Musepack", "mpc", TO_SOUND, b"MP+", b"MPCK"),
    _unread("audio", "DTS", "dts dtshd", TO_SOUND, b"\x7f\xfe\x80\1", b"\xfe\x7f\1\x80", b"DTSHDHDR"),
    _unread("audio", "DSD", "dsf dff", TO_SOUND, b"DSD \x1c\0", b"FRM8\0"),
    _unread("audio", "TAK", "tak", TO_SOUND, b"tBaK"),
    _unread("audio", "Shorten", "shn", TO_SOUND, b"ajkg"),
    _unread("audio", "AAC in LOAS", "loas latm", TO_SOUND, b"\x56", test=signatures.mpeg_sync),
    _unread("audio", "SoX's own format", "sox", TO_SOUND, b".SoX", b"XoS."),
    _unread("audio", "Audible's protected sound", "aax aa", TO_SOUND, test=brand(b"aax ", b"aaxc")),
    _unread("audio", "Sony's OpenMG", "oma aa3", TO_SOUND, b"ea3\3", b"EA3\0"),
    _unread("audio video", "RealMedia", "rm rmvb ra", TO_FILM, b".RMF\0", b".ra\xfd"),
    _unread("audio video", "NUT", "nut", TO_FILM, b"nut/multimedia container\0"),
    _unread("audio video", "Windows' recorded television", "wtv", TO_FILM, b"\xb7\xd8\x00\x20\x37\x49\xda\x11"),
    _unread("video", "Flash", "swf", TO_FILM, b"FWS", b"CWS", b"ZWS", test=signatures.flash),
    _unread("text", "PDF", "pdf", TO_WORDS, b"%PDF-"),
    _written(_unread("text", "PDF", "", TO_WORDS, test=signatures.written_pdf)),
    _unread("text", "a Word document", "docx", TO_WORDS, b"PK\3\4", test=holds(b"word/")),
    _unread("text", "an Excel table", "xlsx", "save it as CSV", b"PK\3\4", test=holds(b"xl/")),
    _unread("text", "a PowerPoint presentation", "pptx", TO_WORDS, b"PK\3\4", test=holds(b"ppt/")),
    _unread("text", "an OpenDocument", "odt ods odp", TO_WORDS, b"PK\3\4", test=holds(b"opendocument")),
    _unread("text", "an EPUB book", "epub", TO_WORDS, b"PK\3\4", test=holds(b"application/epub")),
    _unread("depth", "NumPy's archive", "npz", "save each array as .npy", b"PK\3\4", test=holds(b".npy")),
    _unread("", "a zip archive", "zip", UNPACK, b"PK\3\4", b"PK\5\6"),
    _unread("text", "an Office document", "doc xls ppt", TO_WORDS, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
    _unread("", "a gzip archive", "gz tgz", UNPACK, b"\x1f\x8b"),
    _unread("", "a bzip2 archive", "bz2", UNPACK, b"BZh", test=at(4, b"1AY&SY")),
    _unread("", "an xz archive", "xz", UNPACK, b"\xfd7zXZ\0"),
    _unread("", "a Zstandard archive", "zst", UNPACK, b"\x28\xb5\x2f\xfd"),
    _unread("", "a 7z archive", "7z", UNPACK, b"7z\xbc\xaf\x27\x1c"),
    _unread("", "a RAR archive", "rar", UNPACK, b"Rar!\x1a\7"),
    _unread("", "a tar archive", "", "unpack it, or read it as a stream of shards", test=at(257, b"ustar")),
    _unread("", "a Unix archive", "a deb ar", UNPACK, b"!<arch>\n"),
    _unread("", "HDF5", "h5 hdf5", "export each item to a file of its own", b"\x89HDF\r\n\x1a\n"),
    _unread("", "Parquet", "parquet", "read it as a table of texts", b"PAR1"),
    _unread("", "an SQLite database", "", "export each item to a file of its own", b"SQLite format 3\0"),
    _unread("", "a program", "", "remove it", b"\x7fELF", b"MZ\x90\0", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe"),
    _unread("", "a Mac's companion file (AppleDouble)", "", "remove it", b"\0\5\x16\7", b"\0\5\x16\0"),
    _written(_unread("", "a pointer of Git LFS", "", "fetch the file itself with git lfs pull", test=signatures.lfs)),
    _written(
        _unread("", "a pointer of git-annex", "", "fetch the file itself with git annex get", test=signatures.annex)
    ),
)
TEXT = Format("UTF-8 text", ("text",), OWN, endings=("txt", "md"), sure=True, written=True)
_MARKED = Format("UTF-16 or UTF-32 text", ("text",), OWN, sure=True, test=signatures.marked_text)
_CHARSETS = (
    _unread("text", "UTF-16 text without a byte order mark", "", TO_TEXT, test=signatures.unmarked_utf16),
    _unread("text", "text of another charset than UTF-8, such as Latin-1", "", TO_TEXT, test=signatures.other_charset),
)

TABLE = (*_UNREAD, *_PICTURES, *_SOUNDS, *_STREAMS, TEXT, _MARKED, *_CHARSETS)

# Pillow's formats that may open: no EPS, which runs another program; no TGA, which has no mark to know it by.
FORMATS = tuple(dict.fromkeys(reader for row in TABLE if row.library == PILLOW for reader in row.readers))
# FFmpeg's demuxers that may open: no playlists, no concatenation, nothing that reaches for other files or the network.
# png_pipe and tiff_pipe read pictures of 16 bits.
DEMUXERS = ",".join(
    dict.fromkeys([name for row in TABLE if row.library == FFMPEG for name in row.readers] + ["png_pipe", "tiff_pipe"])
)


def _by_ending() -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for row in TABLE:
        for ending in row.endings if row.library else ():
            found[ending] = found.get(ending, frozenset()) | frozenset(row.modalities)
    return found


# Which modalities a file name's ending may stand for; endings that are not listed are told by their content.
ENDINGS = _by_ending()
# What is said of a file whose name's ending is that of a format that nothing reads.
UNREAD_ENDINGS = {ending: row.refusal for row in TABLE if not row.library for ending in row.endings}


def _by_first_byte() -> dict[int, list[tuple[bytes, Format]]]:
    found: dict[int, list[tuple[bytes, Format]]] = defaultdict(list)
    for row in TABLE:
        for mark in row.marks:
            found[mark[0]].append((mark, row))
    return dict(found)


_MARKS = _by_first_byte()
_PLACED = tuple(
    row for row in TABLE if not row.marks and row.test and not row.written and row not in (_MARKED, *_CHARSETS)
)
_WRITTEN = tuple(row for row in TABLE if row.written and row is not TEXT)


def _first(rows: tuple[Format, ...], start: bytes) -> Format | None:
    return next((row for row in rows if row.test is not None and row.test(start)), None)


def recognise(start: bytes) -> Format | None:
    """The row of a file that begins so; None: no mark tells it. ``start``: the first ``HEAD`` bytes.

    What is valid UTF-8 without control characters is text, whatever its first letters are.
    """
    if not signatures.has_controls(start):
        if signatures.utf8(start):
            return _first(_WRITTEN, start) or TEXT
        if signatures.other_charset(start):
            return _CHARSETS[-1]
    if signatures.marked_text(start):
        return _MARKED
    for mark, row in _MARKS.get(start[0], ()):
        if start.startswith(mark) and (row.test is None or row.test(start)):
            return row
    return _first(_PLACED, start) or (TEXT if signatures.utf8(start) else _first(_CHARSETS, start))


@dataclass(frozen=True)
class Writing:
    """A kind of text that stands where a picture, a film or a sound was wanted."""

    name: str
    mark: re.Pattern[bytes]
    advice: str


_WRITINGS = (
    Writing(
        "an HTML page, perhaps of a failed download",
        re.compile(rb"\s*<(!doctype\s+html|html)", re.I),
        "download the file again",
    ),
    Writing("an SVG drawing", re.compile(rb"(?s)\s*(<\?xml.{,2000})?<svg"), "export it as PNG"),
    Writing("PostScript", re.compile(rb"%!PS"), "export it as PNG"),
    Writing("a playlist", re.compile(rb"#EXTM3U|\[playlist\]|ffconcat "), "give the files that it names"),
    Writing("XML", re.compile(rb"\s*<\?xml"), "replace it by the file that it describes"),
    Writing("a data URI", re.compile(rb"data:[\w/+.;=-]+;base64,"), "save the bytes that it encodes"),
)


def writing(start: bytes) -> Writing | None:
    """Which kind of text begins so; None: plain words."""
    start = start.removeprefix(b"\xef\xbb\xbf")
    return next((kind for kind in _WRITINGS if kind.mark.match(start)), None)
