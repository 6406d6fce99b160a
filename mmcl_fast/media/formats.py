"""The table of file formats. Recognition, the readers, the reader of folders and the messages all use it."""

from __future__ import annotations

import codecs
import re
from collections import defaultdict
from dataclasses import dataclass, replace

from mmcl_fast.media import signatures
from mmcl_fast.media.signatures import HEAD, Test, at, brand, holds

__all__ = [
    "DEMUXERS",
    "ENDINGS",
    "HEAD",
    "PILLOW_FORMATS",
    "TABLE",
    "UNREAD_ENDINGS",
    "Format",
    "recognise",
    "recognise_text_kind",
]

PILLOW, SOUNDFILE, FFMPEG, MMCL_FAST = "Pillow", "soundfile", "FFmpeg", "mmcl_fast"


@dataclass(frozen=True)
class Format:
    """One row of the table: how to recognise a format, and who reads it.

    Attributes:
        name: the format's name in messages.
        modalities: the modalities that such a file may have.
        library: the library that reads it: PILLOW, SOUNDFILE, FFMPEG or MMCL_FAST; "" where nothing reads it.
        readers: the library's own names for it: Pillow's formats, FFmpeg's demuxers.
        endings: usual endings of file names, in lower case.
        marks: magic bytes; the file begins with one of them. Empty: only ``test`` recognises it.
        test: a further test of its first bytes.
        tells_modality: whether marks and test settle the modality, so that no library has to open the file.
        may_be_utf8: whether such a file may be valid UTF-8 from end to end.
        advice: what the user can do with a file that nothing reads.
    """

    name: str
    modalities: tuple[str, ...]
    library: str
    readers: tuple[str, ...] = ()
    endings: tuple[str, ...] = ()
    marks: tuple[bytes, ...] = ()
    test: Test | None = None
    tells_modality: bool = False
    may_be_utf8: bool = False
    advice: str = ""

    @property
    def refusal(self) -> str:
        """The message about a file that nothing reads."""
        return f"{self.name}, which is not read: {self.advice}"


# The functions below only make the table short: one for each library, with the format's data in a fixed order.
def _row(
    library: str, kinds: str, readers: str, name: str, endings: str, *marks: bytes, test: Test | None = None
) -> Format:
    return Format(name, tuple(kinds.split()), library, tuple(readers.split()), tuple(endings.split()), marks, test)


def _pillow(kinds: str, reader: str, endings: str, *marks: bytes, test: Test | None = None) -> Format:
    return _row(PILLOW, kinds, reader, reader, endings, *marks, test=test)


def _soundfile(name: str, endings: str, *marks: bytes, test: Test | None = None) -> Format:
    return _row(SOUNDFILE, "audio", "", name, endings, *marks, test=test)


def _ffmpeg(kinds: str, readers: str, name: str, endings: str, *marks: bytes, test: Test | None = None) -> Format:
    return _row(FFMPEG, kinds, readers, name, endings, *marks, test=test)


def _unread(kinds: str, name: str, endings: str, advice: str, *marks: bytes, test: Test | None = None) -> Format:
    return replace(_row("", kinds, "", name, endings, *marks, test=test), advice=advice)


def _tells_modality(row: Format) -> Format:
    return replace(row, tells_modality=True)


def _may_be_utf8(row: Format) -> Format:
    return replace(row, may_be_utf8=True)


TO_IMAGE = "convert it to JPEG or PNG"
TO_AUDIO = "convert it to WAV or FLAC"
TO_VIDEO = "convert it to MP4 or MKV"
TO_TEXT_OR_IMAGE = "save its words as UTF-8 text, or its pages as PNG"
TO_UTF8 = "save it as UTF-8"
UNPACK = "unpack it"
DEVELOP = "export it as JPEG, PNG or TIFF"

_IMAGES = (
    _pillow("image", "JPEG", "jpg jpeg jpe jfif", b"\xff\xd8\xff"),
    _pillow("image depth video", "PNG", "png apng", b"\x89PNG\r\n\x1a\n"),
    _pillow("image video", "GIF", "gif", b"GIF87a", b"GIF89a"),
    _pillow("image video", "WEBP", "webp", b"RIFF", test=at(8, b"WEBP")),
    _pillow("image depth", "TIFF", "tif tiff btf", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"MM*\0", b"II\0*"),
    _pillow("image", "BMP", "bmp", b"BM"),
    _pillow("image depth", "JPEG2000", "jp2 j2k jpx jpf j2c", b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
    _pillow("image video", "AVIF", "avif avifs", test=signatures.avif),
    _pillow("image depth", "PPM", "ppm pgm pbm pnm pfm pam", b"P", test=signatures.pnm),
    _may_be_utf8(_pillow("image depth", "PPM", "", test=signatures.text_pnm)),
    _tells_modality(_row(MMCL_FAST, "depth", "", "OpenEXR", "exr", b"\x76\x2f\x31\x01")),
    _tells_modality(_row(MMCL_FAST, "depth", "", "NumPy's array", "npy", b"\x93NUMPY")),
)

_AUDIO = (
    _tells_modality(_soundfile("WAV", "wav wave bwf", b"RIFF", b"RIFX", test=at(8, b"WAVE"))),
    _tells_modality(_soundfile("RF64", "rf64", b"RF64", test=at(8, b"WAVE"))),
    _tells_modality(_soundfile("Wave64", "w64", b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0")),
    _tells_modality(_soundfile("FLAC", "flac", b"fLaC\0\0\0\x22", b"fLaC\x80\0\0\x22")),
    _tells_modality(_soundfile("AIFF", "aif aiff aifc svx 8svx", b"FORM", test=signatures.aiff)),
    _tells_modality(_soundfile("CAF", "caf", b"caff\0\x01")),
    _tells_modality(_soundfile("MP3", "mp3", b"ID3", test=signatures.id3)),
    _soundfile("AU", "au snd", b".snd", b"dns."),
    _soundfile("NIST SPHERE", "sph nist", b"NIST_1A"),
    _soundfile("VOC", "voc", b"Creative Voice File\x1a"),
    _soundfile(
        "IRCAM",
        "ircam",
        *(bytes((0x64, 0xA3, i, 0)) for i in range(1, 5)),
        *(bytes((0, i, 0xA3, 0x64)) for i in range(1, 5)),
    ),
    _soundfile("MATLAB's array of audio", "", b"MATLAB 5.0 MAT-file", b"\0\0\0\0\x01\0\0\0", b"\0\0\x03\xe8\0\0\0\x01"),
    _soundfile("PARIS", "paf", b" paf", b"fap "),
    _soundfile("PVF", "pvf", b"PVF1\n"),
    _soundfile("AVR", "avr", b"2BIT"),
    _soundfile("WVE", "wve", b"ALawSoundFile**"),
    _soundfile("XI", "xi", b"Extended Instrument: "),
    _soundfile("SDS", "sds", b"\xf0\x7e"),
)

_CONTAINERS = (
    _ffmpeg("video audio", "avi", "AVI", "avi", b"RIFF", test=at(8, b"AVI ")),
    _ffmpeg("audio", "wav", "BW64", "bw64", b"BW64", test=at(8, b"WAVE")),
    _ffmpeg("audio", "ogg", "Ogg audio", "oga opus spx"),
    _ffmpeg("video audio", "ogg", "Ogg", "ogg ogv ogx", b"OggS\0"),
    _ffmpeg("video audio", "mov mp4 m4a 3gp 3g2 mj2", "MP4", "mp4 mov m4v 3gp 3g2 f4v", test=signatures.iso_media_box),
    _ffmpeg("audio", "mov", "MP4 audio", "m4a m4b 3ga"),
    _ffmpeg("video audio", "matroska webm", "Matroska", "mkv webm", b"\x1aE\xdf\xa3"),
    _ffmpeg("audio", "matroska webm", "Matroska audio", "mka weba"),
    _ffmpeg("video audio", "flv", "Flash Video", "flv", b"FLV\x01"),
    _ffmpeg("video audio", "asf", "ASF", "asf wmv", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    _ffmpeg("audio", "asf", "ASF audio", "wma"),
    _ffmpeg("video audio", "mpeg", "MPEG program stream", "mpg mpeg vob", b"\0\0\x01\xba"),
    _ffmpeg("video audio", "mpegts", "MPEG transport stream", "mts m2ts m2t", b"G"),
    _ffmpeg("video", "mpegvideo", "raw MPEG video", "m1v m2v mpv", b"\0\0\x01\xb3"),
    _ffmpeg("video", "m4v", "raw MPEG-4 video", "", b"\0\0\x01\xb0"),
    _ffmpeg("video", "h264", "raw H.264", "h264 264 avc", b"\0\0\0\x01", b"\0\0\x01"),
    _ffmpeg("video", "hevc", "raw H.265", "h265 265 hevc"),
    _ffmpeg("video", "ivf", "IVF", "ivf", b"DKIF\0\0\x20\0"),
    _ffmpeg("video", "obu", "raw AV1", "obu", b"\x12\0\x0a"),
    _ffmpeg("video", "yuv4mpegpipe", "YUV4MPEG2", "y4m", b"YUV4MPEG2 "),
    _ffmpeg("video audio", "mxf", "MXF", "mxf", b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01\x02"),
    _ffmpeg("video", "dv", "DV", "dv", b"\x1f\x07\0"),
    _ffmpeg("audio", "mp3 aac", "MPEG audio", "mp2 mpa aac adts", b"\xff", test=signatures.mpeg_sync),
    _tells_modality(_ffmpeg("audio", "amr", "AMR", "amr awb", b"#!AMR\n", b"#!AMR-WB\n")),
    _ffmpeg("audio", "ac3 eac3", "AC-3", "ac3 eac3 ec3", b"\x0b\x77", b"\x77\x0b"),
    _ffmpeg("audio", "wv", "WavPack", "wv", b"wvpk"),
    _ffmpeg("audio", "tta", "True Audio", "tta", b"TTA1"),
    # FFmpeg's own readers, for codecs that libsndfile refuses.
    _ffmpeg("audio", "flac w64 aiff caf", "audio that libsndfile refuses", ""),
)

_UNREAD = (
    _unread("image", "HEIC", "heic heif hif", TO_IMAGE, test=signatures.heif),
    _unread("image", "a camera's raw image (CR3)", "cr3", DEVELOP, test=brand(b"crx ")),
    _unread("image", "a camera's raw image", "raf", DEVELOP, b"FUJIFILMCCD-RAW"),
    _unread("image", "a camera's raw image", "orf rw2 x3f", DEVELOP, b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb"),
    _unread(
        "image",
        "a camera's raw image",
        "cr2 dng nef nrw arw sr2 pef srw 3fr erf kdc mef mos rwl",
        DEVELOP,
        b"II*\0",
        b"MM\0*",
        test=signatures.camera_raw,
    ),
    _unread("image", "JPEG XL", "jxl", TO_IMAGE, b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a"),
    _unread("image", "JPEG XR", "jxr wdp hdp", TO_IMAGE, b"II\xbc\x01"),
    _unread("image", "a Photoshop document", "psd psb", TO_IMAGE, b"8BPS\0\1", b"8BPS\0\2"),
    _unread("image", "a GIMP document", "xcf", TO_IMAGE, b"gimp xcf "),
    _unread("image", "an icon", "ico cur", TO_IMAGE, b"\0\0\1\0", b"\0\0\2\0", test=signatures.icon),
    _unread("image", "an icon", "icns", TO_IMAGE, b"icns\0"),
    _unread("image", "QOI", "qoi", TO_IMAGE, b"qoif\0"),
    _unread("image", "PCX", "pcx", TO_IMAGE, b"\x0a\x05\x01\x08", b"\x0a\x03\x01\x08"),
    _unread("image", "DDS", "dds", TO_IMAGE, b"DDS \x7c\0\0\0"),
    _unread("image", "DjVu", "djvu", TO_IMAGE, b"AT&TFORM"),
    _unread("image", "a Windows metafile", "wmf emf", TO_IMAGE, b"\xd7\xcd\xc6\x9a", b"\1\0\x09\0\0\3"),
    _unread("image", "DICOM", "dcm", "convert it to PNG, of 16 bits where it has so many", test=at(128, b"DICM")),
    _unread("image", "Radiance HDR", "hdr", "convert it to PNG or OpenEXR", b"#?RADIANCE\n", b"#?RGBE\n"),
    _unread("audio", "MIDI, which is notes and no audio", "mid midi", "render it to WAV", b"MThd\0\0\0\6"),
    _unread("audio", "Monkey's Audio", "ape", TO_AUDIO, b"MAC "),
    _unread("audio", "Musepack", "mpc", TO_AUDIO, b"MP+", b"MPCK"),
    _unread("audio", "DTS", "dts dtshd", TO_AUDIO, b"\x7f\xfe\x80\1", b"\xfe\x7f\1\x80", b"DTSHDHDR"),
    _unread("audio", "DSD", "dsf dff", TO_AUDIO, b"DSD \x1c\0", b"FRM8\0"),
    _unread("audio", "TAK", "tak", TO_AUDIO, b"tBaK"),
    _unread("audio", "Shorten", "shn", TO_AUDIO, b"ajkg"),
    _unread("audio", "AAC in LOAS", "loas latm", TO_AUDIO, b"\x56", test=signatures.mpeg_sync),
    _unread("audio", "SoX's own format", "sox", TO_AUDIO, b".SoX", b"XoS."),
    _unread("audio", "Audible's protected audio", "aax aa", TO_AUDIO, test=brand(b"aax ", b"aaxc")),
    _unread("audio", "Sony's OpenMG", "oma aa3", TO_AUDIO, b"ea3\3", b"EA3\0"),
    _unread("audio video", "RealMedia", "rm rmvb ra", TO_VIDEO, b".RMF\0", b".ra\xfd"),
    _unread("audio video", "NUT", "nut", TO_VIDEO, b"nut/multimedia container\0"),
    _unread("audio video", "Windows' recorded television", "wtv", TO_VIDEO, b"\xb7\xd8\x00\x20\x37\x49\xda\x11"),
    _unread("video", "Flash", "swf", TO_VIDEO, b"FWS", b"CWS", b"ZWS", test=signatures.flash),
    _unread("text", "PDF", "pdf", TO_TEXT_OR_IMAGE, b"%PDF-"),
    _may_be_utf8(_unread("text", "PDF", "", TO_TEXT_OR_IMAGE, test=signatures.text_pdf)),
    _unread("text", "a Word document", "docx", TO_TEXT_OR_IMAGE, b"PK\3\4", test=holds(b"word/")),
    _unread("text", "an Excel table", "xlsx", "save it as CSV", b"PK\3\4", test=holds(b"xl/")),
    _unread("text", "a PowerPoint presentation", "pptx", TO_TEXT_OR_IMAGE, b"PK\3\4", test=holds(b"ppt/")),
    _unread("text", "an OpenDocument", "odt ods odp", TO_TEXT_OR_IMAGE, b"PK\3\4", test=holds(b"opendocument")),
    _unread("text", "an EPUB book", "epub", TO_TEXT_OR_IMAGE, b"PK\3\4", test=holds(b"application/epub")),
    _unread("depth", "NumPy's archive", "npz", "save each array as .npy", b"PK\3\4", test=holds(b".npy")),
    _unread("", "a zip archive", "zip", UNPACK, b"PK\3\4", b"PK\5\6"),
    _unread("text", "an Office document", "doc xls ppt", TO_TEXT_OR_IMAGE, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
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
    _may_be_utf8(
        _unread(
            "", "a pointer of Git LFS", "", "fetch the file itself with git lfs pull", test=signatures.git_lfs_pointer
        )
    ),
    _may_be_utf8(
        _unread(
            "",
            "a pointer of git-annex",
            "",
            "fetch the file itself with git annex get",
            test=signatures.git_annex_pointer,
        )
    ),
)
TEXT = Format("UTF-8 text", ("text",), MMCL_FAST, endings=("txt", "md"), tells_modality=True, may_be_utf8=True)
_TEXT_WITH_MARK = Format(
    "UTF-16 or UTF-32 text", ("text",), MMCL_FAST, tells_modality=True, test=signatures.utf16_or_utf32_with_mark
)
_OTHER_CHARSETS = (
    _unread("text", "UTF-16 text without a byte order mark", "", TO_UTF8, test=signatures.utf16_without_mark),
    _unread(
        "text",
        "text of another charset than UTF-8, such as Latin-1",
        "",
        TO_UTF8,
        test=signatures.text_of_other_charset,
    ),
)

TABLE = (*_UNREAD, *_IMAGES, *_AUDIO, *_CONTAINERS, TEXT, _TEXT_WITH_MARK, *_OTHER_CHARSETS)

# Pillow's formats that may open a file. EPS is missing, because it runs another program; TGA, because it has no mark.
PILLOW_FORMATS = tuple(dict.fromkeys(reader for row in TABLE if row.library == PILLOW for reader in row.readers))
# FFmpeg's demuxers that may open a file: none that reaches for other files or the network, such as playlists.
# The demuxers png_pipe and tiff_pipe read images of 16 bits.
DEMUXERS = ",".join(
    dict.fromkeys([name for row in TABLE if row.library == FFMPEG for name in row.readers] + ["png_pipe", "tiff_pipe"])
)


def _by_ending() -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for row in TABLE:
        for ending in row.endings if row.library else ():
            found[ending] = found.get(ending, frozenset()) | frozenset(row.modalities)
    return found


# The modalities that the ending of a file name may stand for. The content decides for endings that are not here.
ENDINGS = _by_ending()
# The message about a file whose ending belongs to a format that nothing reads.
UNREAD_ENDINGS = {ending: row.refusal for row in TABLE if not row.library for ending in row.endings}


def _by_first_byte() -> dict[int, list[tuple[bytes, Format]]]:
    found: dict[int, list[tuple[bytes, Format]]] = defaultdict(list)
    for row in TABLE:
        for mark in row.marks:
            found[mark[0]].append((mark, row))
    return dict(found)


_MARKS = _by_first_byte()
_WITHOUT_MARK = tuple(
    row
    for row in TABLE
    if not row.marks and row.test and not row.may_be_utf8 and row not in (_TEXT_WITH_MARK, *_OTHER_CHARSETS)
)
_UTF8_FORMATS = tuple(row for row in TABLE if row.may_be_utf8 and row is not TEXT)


def _first_match(rows: tuple[Format, ...], start: bytes) -> Format | None:
    return next((row for row in rows if row.test is not None and row.test(start)), None)


def recognise(start: bytes) -> Format | None:
    """Return the format of a file; None if neither magic bytes nor a test recognise it.

    Valid UTF-8 without control characters is text, whatever its first letters are.

    Args:
        start: the first ``HEAD`` bytes of the file.
    """
    if not signatures.has_controls(start):
        if signatures.is_utf8(start):
            return _first_match(_UTF8_FORMATS, start) or TEXT
        if signatures.text_of_other_charset(start):
            return _OTHER_CHARSETS[-1]
    if signatures.utf16_or_utf32_with_mark(start):
        return _TEXT_WITH_MARK
    for mark, row in _MARKS.get(start[0], ()):
        if start.startswith(mark) and (row.test is None or row.test(start)):
            return row
    if (found := _first_match(_WITHOUT_MARK, start)) is not None:
        return found
    return TEXT if signatures.is_utf8(start) else _first_match(_OTHER_CHARSETS, start)


@dataclass(frozen=True)
class TextKind:
    """A kind of text that is found in place of an image, a video or a recording."""

    name: str
    mark: re.Pattern[bytes]
    advice: str


_TEXT_KINDS = (
    TextKind(
        "an HTML page, perhaps of a failed download",
        re.compile(rb"\s*<(!doctype\s+html|html)", re.I),
        "download the file again",
    ),
    TextKind("an SVG drawing", re.compile(rb"(?s)\s*(<\?xml.{,2000})?<svg"), "export it as PNG"),
    TextKind("PostScript", re.compile(rb"%!PS"), "export it as PNG"),
    TextKind("a playlist", re.compile(rb"#EXTM3U|\[playlist\]|ffconcat "), "give the files that it names"),
    TextKind("XML", re.compile(rb"\s*<\?xml"), "replace it by the file that it describes"),
    TextKind("a data URI", re.compile(rb"data:[\w/+.;=-]+;base64,"), "save the bytes that it encodes"),
)


def recognise_text_kind(start: bytes) -> TextKind | None:
    """Return the kind of a text that begins with ``start``; None for plain words."""
    start = start.removeprefix(codecs.BOM_UTF8)
    return next((kind for kind in _TEXT_KINDS if kind.mark.match(start)), None)
