"""Files that the libraries read are recognised whatever their name; known but unsupported files get helpful advice."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from mmcl_fast.errors import MediaError
from mmcl_fast.media import check, decode, formats, sniff
from mmcl_fast.media.formats import DEMUXERS, ENDINGS, FFMPEG, PILLOW_FORMATS, TABLE, UNREAD_ENDINGS, recognise
from mmcl_fast.media.registry import MODALITIES
from tests.media.files import plain
from tests.media.format_files import by_modality, sounds
from tests.media.originals import saved, scene
from tests.media.trial import spec_of

CASES = [(modality, name) for modality, files in by_modality().items() for name in files]
CUT_SHORT = ("wve",)  # libsndfile's writer states a wrong length


@pytest.mark.parametrize(("modality", "name"), CASES, ids=lambda part: str(part))
def test_what_is_decoded_when_told_is_recognised_untold(modality, name, tmp_path):
    data = by_modality()[modality][name]
    (tmp_path / f"told.{name}").write_bytes(data)
    (tmp_path / "without an ending").write_bytes(data)
    want = None
    for source in (tmp_path / f"told.{name}", tmp_path / "without an ending", data):
        assert sniff(source) == modality
        got = decode(source, modality, spec_of(modality), key="the same")
        assert want is None or (got == want).all()
        want = got
    if name not in CUT_SHORT:
        check(data, modality, spec_of(modality))


def test_the_lists_of_the_libraries_come_from_the_table():
    assert {"GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP", "BMP", "AVIF", "PPM"} == set(PILLOW_FORMATS)
    names = {reader for row in TABLE if row.library == FFMPEG for reader in row.readers}
    assert set(DEMUXERS.split(",")) == names | {"png_pipe", "tiff_pipe"}
    # None of these may ever open a file: they read other files or the network, or accept any file.
    forbidden = "hls dash concat sdp rtsp rtp image2 lavfi data rawvideo s16le ffmetadata tty srt webvtt ass"
    assert not set(DEMUXERS.split(",")) & set(forbidden.split())


def test_rows_are_whole():
    for row in TABLE:
        assert set(row.modalities) <= set(MODALITIES)
        assert bool(row.library) != bool(row.advice), row.name
        assert not row.tells_modality or len(row.modalities) == 1, row.name
        assert all(ending == ending.lower() and "." not in ending for ending in row.endings)
    for ending, kinds in (("wav", {"audio"}), ("png", {"image", "depth", "video"}), ("npy", {"depth"})):
        assert ENDINGS[ending] == kinds
    assert not set(ENDINGS) & set(UNREAD_ENDINGS)
    assert UNREAD_ENDINGS["heic"] == "HEIC, which is not read: convert it to JPEG or PNG"


SENTENCES = [
    "RIFF is what he played on his guitar",
    "RIFFRAFFWAVE is a name that nobody has",
    "RIFF    WAVE is how a file may begin",
    "BMW and BM are not the same",
    "P5 is a section of the form",
    "P6 10 10 255 are the numbers of the buses",
    "P3 buses run at 10 and at 12",
    "P7\nis where we park",
    "GIF89a is older than this sentence",
    "OggS is how a page begins",
    "fLaC is how a stream begins",
    "ID3 tags name the artist",
    "FORM 10-K is filed each year",
    "FORM    AIFF is a chunk",
    "caffeine wakes her up",
    "FLV was the format of the web",
    "II* and MM* are stars",
    "MM is a thousand thousands",
    "#!AMR is no shell",
    ".snd was the ending on a NeXT",
    "NIST_1A is a header",
    "RF64 and BW64 are wide",
    "riff raff stood at the corner",
    "Our wide river flows",
    "her free time is short",
    "2 x moov and 3 x mdat",
    "the ftyp box comes first",
    "GGGGG is how transport streams sync",
    "DKIF is IVF",
    "YUV4MPEG2 W176 H144 is a header",
    "wvpk, TTA1 and MAC are sounds",
    "Creative Voice File is a name",
    "MATLAB 5.0 MAT-file, he said",
    "PVF1\nis a mark",
    "2BIT or not 2BIT",
    "Extended Instrument: a piano",
    "ALawSoundFile** is Psion's",
    "MThd begins a song",
    "MZ was a programmer",
    "PK is a man's initials",
    "BZh is a mark",
    "Rar! said the lion",
    "PAR1 and ARROW1 are marks",
    "DSD and DTS are sounds",
    "FWS, CWS and ZWS are marks",
    "MP+ is Musepack",
    "8BPS and gimp xcf are pictures",
    "AT&TFORM DJVU was a book",
    "version https://git-lfs.github.com/spec/v1 is what a pointer begins with",
    "version 2 is better than version 1",
    "annex/objects/ is a folder of git-annex",
    "qoif is okay",
    "DDS  is a dentist",
    "icns are small",
    "SQLite format 3 is a header",
    "nut/multimedia container is a header",
    "!<arch> is an archive",
    "ustar",
    "GIF8",
    "P5 ",
    "caff",
    "FORM",
    "{\\rtf1 is a document",
    ".snd\x01 with an odd character",
    "wvpk\x07 rings a bell",
    "BM\x7f is deleted",
    "\x1b[31mred\x1b[0m is how a terminal writes",
    "Größe, 文字 and 🙂",
    "\ufeffcaffeine after a byte order mark",
]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_sentence_is_a_text_whatever_its_first_letters_are(sentence, tmp_path):
    for content in (sentence, sentence + ".\n" * 3, sentence + " and goes on. " * 9000):
        data = content.encode()
        assert sniff(data) == "text"
        assert decode(data, "text").startswith(sentence.strip().removeprefix("\ufeff")[:20])
    with pytest.raises(MediaError, match="its content is text; move it to text or replace it|cut short"):
        decode(sentence.encode(), "image")


def test_every_mark_of_letters_may_begin_a_sentence():
    marks = [mark for row in TABLE for mark in row.marks if mark.isascii() and mark.decode().isprintable()]
    assert len(marks) > 40
    for mark in marks:
        for place in (b"", b"Oh, ", b"A word w"):  # MP4 has its magic bytes at byte 4, RIFF's forms at byte 8
            assert sniff(place + mark + b" is how this sentence goes on, in plain English.") == "text", mark
    for letters in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"uuid", b"pnot", b"sidx", b"moof"):
        assert sniff(b"Our " + letters + b" is here.") == "text"


@pytest.mark.parametrize(
    "charset", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "utf-8-sig"]
)
def test_a_byte_order_mark_tells_how_to_read_a_text(charset, tmp_path):
    content = "Eine Katze, 文字 und 🙂.\r\nA second line."
    mark = "" if charset in ("utf-16", "utf-32", "utf-8-sig") else "\ufeff"
    data = (mark + content).encode(charset)
    (tmp_path / "a.txt").write_bytes(data)
    for source in (data, tmp_path / "a.txt"):
        assert sniff(source) == "text"
        assert decode(source, "text") == content
        check(source, "text")
    assert decode((mark + "é" * 90_000).encode(charset), "text") == "é" * len(decode("é".encode() * 90_000, "text"))


@pytest.mark.parametrize(
    "charset", ["utf-16-le", "utf-16-be", "latin-1", "cp1252", "shift-jis", "gb18030", "cp1251", "koi8-r"]
)
def test_text_of_another_charset_is_refused_with_advice(charset, tmp_path):
    content = {
        "shift-jis": "これは一つの文です。猫が窓のそばで眠っています。\n" * 3,
        "gb18030": "这是一个句子。猫在窗边睡觉。\n" * 5,
        "cp1251": "Это предложение о кошке у окна.\n" * 3,
        "koi8-r": "Это предложение о кошке у окна.\n" * 3,
        "latin-1": "Größe",
    }.get(charset, "Un café près d'une fenêtre, she said.")
    path = tmp_path / "a.txt"
    path.write_bytes(content.encode(charset))
    name = "UTF-16 text without a byte order mark" if charset.startswith("utf-16") else "text of another charset"
    if name.startswith("UTF-16") and not content.isascii():
        path.write_bytes("A cat sleeps by the window.".encode(charset))
    for work in (sniff, lambda path: decode(path, "text"), lambda path: check(path, "text")):
        with pytest.raises(MediaError, match=f"{re.escape(str(path))}: {name}.*, which is not read: save it as UTF-8$"):
            work(path)


def zipped(*names: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as out:
        for name in names:
            out.writestr(name, "content")
    return data.getvalue()


def heif(*brands: bytes) -> bytes:
    body = brands[0] + bytes(4) + b"".join(brands)
    return struct.pack(">I", 8 + len(body)) + b"ftyp" + body + struct.pack(">I", 8) + b"meta" + bytes(64)


def tiff(**tags: bytes | int) -> bytes:
    """Return a TIFF of one small image with further fields."""
    fields = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        tag = {"dng_version": 50706, "reduced": 254, "further": 330}[name]
        fields.tagtype[tag] = 1 if isinstance(value, bytes) else 4
        fields[tag] = value
    return saved(Image.new("RGB", (16, 16), "red"), "TIFF", tiffinfo=fields)


def archive(**arrays: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.savez(data, allow_pickle=True, **arrays)
    return data.getvalue()


UNREAD = {
    "heic": (heif(b"heic", b"mif1"), "HEIC", "convert it to JPEG or PNG"),
    "mif1 of heic": (heif(b"mif1", b"heic"), "HEIC", "convert it to JPEG or PNG"),
    "heic sequence": (heif(b"msf1", b"hevc"), "HEIC", "convert it to JPEG or PNG"),
    "cr3": (heif(b"crx "), "a camera's raw image", "export it as JPEG, PNG or TIFF"),
    "cr2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(60), "a camera's raw image", "export it"),
    "dng": (tiff(dng_version=b"\1\4\0\0"), "a camera's raw image", "export it"),
    "nef": (tiff(reduced=1, further=8), "a camera's raw image", "export it"),
    "jxl": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(30), "JPEG XL", "convert it to JPEG or PNG"),
    "psd": (b"8BPS\0\1" + bytes(30), "a Photoshop document", "convert it to JPEG or PNG"),
    "ico": (saved(scene(), "ICO"), "an icon", "convert it to JPEG or PNG"),
    "pdf": (
        b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n" + bytes(9),
        "PDF",
        "save its words as UTF-8 text, or its pages as PNG",
    ),
    "pdf of ASCII": (b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\n", "PDF", "save its words"),
    "docx": (zipped("[Content_Types].xml", "word/document.xml"), "a Word document", "save its words"),
    "xlsx": (zipped("[Content_Types].xml", "xl/workbook.xml"), "an Excel table", "save it as CSV"),
    "zip": (zipped("a.jpg", "b.jpg"), "a zip archive", "unpack it"),
    "npz": (archive(depth=np.ones((4, 4))), "NumPy's archive", "save each array as .npy"),
    "gz": (b"\x1f\x8b\x08" + bytes(20), "a gzip archive", "unpack it"),
    "mid": (b"MThd\0\0\0\6\0\1\0\2\0\x60", "MIDI", "render it to WAV"),
    "rm": (b".RMF\0\0\0\x12" + bytes(20), "RealMedia", "convert it to MP4 or MKV"),
    "exe": (b"MZ\x90\0\3\0\0\0" + bytes(60), "a program", "remove it"),
    "mac's companion": (b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(40), "a Mac's companion file", "remove it"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 12345\n",
        "a pointer of Git LFS",
        "fetch the file itself with git lfs pull",
    ),
    "annex": (b"/annex/objects/SHA256E-s9--" + b"4d" * 32 + b".jpg\n", "a pointer of git-annex", "with git annex get"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_is_known_and_not_read_says_what_to_do(name, tmp_path):
    data, what, advice = UNREAD[name]
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    works = [lambda: sniff(path)]
    for modality in ("image", "video", "audio", "depth", "text"):
        works += [lambda m=modality: decode(path, m), lambda m=modality: check(path, m)]
    for work in works:
        with pytest.raises(MediaError) as caught:
            work()
        line = str(caught.value)
        if "a still image, not a video" in line and data[:2] == b"II":
            continue
        assert line.startswith(f"{path}: {what}") and ", which is not read: " in line and advice in line, line


def test_avif_under_heifs_common_brand_is_a_picture():
    data = saved(scene(), "AVIF")
    assert data[8:12] == b"avif" and recognise(data).name == "AVIF"
    common = data[:8] + b"mif1" + data[12:]
    assert b"avif" in common[16:32] and sniff(common) == "image"
    assert (decode(common, "image") == decode(data, "image")).all()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("<!DOCTYPE html>\n<html><body>404</body></html>", "an HTML page, perhaps of a failed download): download the"),
        ("\n  <HTML lang=en><p>Not found", "an HTML page, perhaps of a failed download): download the file again"),
        ('<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing): export it as PNG"),
        ('<?xml version="1.0"?>\n<!-- made -->\n<svg width="9"/>', "an SVG drawing): export it as PNG"),
        ("%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript): export it as PNG"),
        ("#EXTM3U\n#EXTINF:1,\na.mp3\n", "a playlist): give the files that it names"),
        ("[playlist]\nFile1=a.mp3\n", "a playlist): give the files that it names"),
        ("data:image/png;base64,iVBORw0KGgo=", "a data URI): save the bytes that it encodes"),
    ],
)
def test_a_page_in_a_pictures_place_is_told_apart(content, line, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_text(content)
    assert sniff(path) == "text" and decode(path, "text") == content.strip()
    for modality in ("image", "video", "audio", "depth"):
        with pytest.raises(MediaError) as caught:
            decode(path, modality)
        assert f"its content is text ({line}" in str(caught.value)


def test_a_file_of_another_modality_says_where_it_belongs():
    for told, data, found in (("image", sounds()["wav"], "audio"), ("audio", saved(scene(), "PNG"), "image")):
        with pytest.raises(MediaError, match=f"its content is {found}; move it to {found} or replace it"):
            decode(data, told, plain(told))
    assert formats.recognise_text_kind(b"plain words") is None


def test_the_tutorial_names_formats_of_the_table():
    page = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text()
    found = re.findall(r"^  (\w+)/\S.*  ((?:\w+, )+\w+)(?:\.\.\.)?$", page, re.M)
    assert {modality for modality, _ in found} == {"image", "audio"}
    for modality, endings in found:
        for ending in endings.split(", "):
            assert modality in ENDINGS[ending], (modality, ending)
