"""Lengths that a header leaves open or states wrongly: all samples that decode are read."""

import struct

import numpy as np
import pytest

from mmcl_fast.errors import MediaError
from mmcl_fast.media import check
from tests.media.audio_files import (
    SAMPLES,
    copy_with_cover,
    decode_by_ffmpeg,
    encode_by_ffmpeg,
    read_all,
    sweep,
    write_by_soundfile,
)

PLACEHOLDERS = {
    "ffmpeg": (0xFFFFFFFF, 0xFFFFFFFF),
    "rounded": (0xFFFFFFFF, 0xFFFFFFDB),
    "never filled in": (0, 0),
    "Python": (36, 0),
    "data only": (32036, 0),
    "sox": (0x7FFFF024, 0x7FFFF000),
    "arecord": (0x80000024, 0x80000000),
    "largest": (0x7FFFFFFF, 0x7FFFFFFF),
}
WAV_CODECS = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "GSM610", "MS_ADPCM"]
TEXT = b"INFOISFT" + struct.pack("<I", 14) + b"Lavf58.29.100\0"
LIST = b"LIST" + struct.pack("<I", len(TEXT)) + TEXT


def with_sizes(wav: bytes, riff: int, data: int) -> bytes:
    place = wav.index(b"data") + 4
    return wav[:4] + struct.pack("<I", riff) + wav[8:place] + struct.pack("<I", data) + wav[place + 4 :]


@pytest.mark.parametrize("codec", WAV_CODECS)
@pytest.mark.parametrize("sizes", PLACEHOLDERS.values(), ids=PLACEHOLDERS)
def test_a_wav_without_its_size_reaches_to_the_end_of_the_file(codec, sizes):
    honest = write_by_soundfile("WAV", codec)
    want, _ = read_all(honest)
    data = with_sizes(honest, *sizes)
    got, rate = read_all(data)
    assert rate == 16000 and len(got) == len(want) >= SAMPLES and np.array_equal(got, want)
    check(data, "audio")


@pytest.mark.parametrize("sizes", [(0xFFFFFFFF, 0xFFFFFFFF), (36, 0)])
def test_text_behind_the_sound_is_no_sound(sizes):
    for behind in (LIST, LIST + LIST):
        data = with_sizes(write_by_soundfile("WAV", "PCM_16") + behind, *sizes)
        assert len(read_all(data)[0]) == SAMPLES
        check(data, "audio")
    assert len(read_all(write_by_soundfile("WAV", "PCM_16") + LIST)[0]) == SAMPLES


def test_an_empty_wav_stays_empty():
    data = with_sizes(write_by_soundfile("WAV", "PCM_16")[:44], 36, 0)
    with pytest.raises(MediaError, match="holds no samples"):
        check(data, "audio")


PIPES = [
    ("wav", "pcm_s16le"),
    ("wav", "pcm_f32le"),
    ("w64", "pcm_s16le"),
    ("aiff", "pcm_s16be"),
    ("au", "pcm_s16be"),
    ("caf", "pcm_s16be"),
    ("flac", "flac"),
    ("ogg", "libopus"),
    ("mp3", "libmp3lame"),
    ("mp2", "mp2"),
    ("adts", "aac"),
    ("ac3", "ac3"),
    ("eac3", "eac3"),
    ("matroska", "libopus"),
    ("webm", "libopus"),
    ("matroska", "pcm_s16le"),
    ("mpegts", "aac"),
    ("avi", "pcm_s16le"),
    ("flv", "aac"),
]
RATES = {"libopus": 48000, "ac3": 48000, "eac3": 48000, "aac": 44100}


@pytest.mark.parametrize("kind, codec", PIPES)
def test_what_ffmpeg_writes_to_a_pipe_is_whole(kind, codec):
    rate = RATES.get(codec, 16000)
    data = encode_by_ffmpeg(kind, codec, rate, pipe=True)
    wave, got_rate = read_all(data)
    assert got_rate == rate and abs(len(wave) - rate) < 3000  # an encoder's delay and padding at most
    if codec.startswith("pcm") or codec == "flac":
        assert len(wave) == rate and np.abs(wave - sweep(rate, rate)).max() < 1e-4
    elif kind not in ("w64", "aiff"):  # FFmpeg itself reads none of these without a size
        assert len(wave) == len(decode_by_ffmpeg(data)[0])
    check(data, "audio")


def test_rf64_and_its_kin_with_and_without_sizes():
    honest = write_by_soundfile("RF64", "PCM_16")
    place = honest.index(b"ds64") + 8
    for sizes in (bytes(24), b"\xff" * 24):
        data = honest[:place] + sizes + honest[place + 24 :]
        assert np.array_equal(read_all(data)[0], read_all(honest)[0])
        check(data, "audio")
    data = encode_by_ffmpeg("wav", "pcm_s16le", pipe=True, mux={"rf64": "always"})
    assert len(read_all(data)[0]) == SAMPLES
    check(data, "audio")
    check(honest.replace(b"RF64", b"BW64", 1), "audio")


@pytest.mark.parametrize("fields", [(-1,), (0,)])
def test_a_caf_of_open_length(fields):
    honest = write_by_soundfile("CAF", "PCM_16")
    place = honest.index(b"data") + 4
    data = honest[:place] + struct.pack(">q", *fields) + honest[place + 8 :]
    assert len(read_all(data)[0]) == SAMPLES
    check(data, "audio")


def test_a_flac_that_does_not_state_its_length():
    honest = bytearray(write_by_soundfile("FLAC", "PCM_16"))
    honest[21] &= 0xF0  # the last 36 bits of the 8 bytes from byte 18 on
    honest[22:26] = bytes(4)
    for data in (bytes(honest), copy_with_cover(bytes(honest), "ogg"), bytes(honest) + b"TAG" + bytes(125)):
        wave, rate = read_all(data)
        assert (len(wave), rate) == (SAMPLES, 16000) and np.abs(wave - sweep()).max() < 1e-4
        check(data, "audio")


CUT = [
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "MS_ADPCM"),
    ("WAVEX", "FLOAT"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("CAF", "PCM_16"),
    ("NIST", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("MP3", None),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
]


@pytest.mark.parametrize("kind, codec", CUT)
def test_what_states_its_length_and_ends_before_is_cut_short(kind, codec):
    data = write_by_soundfile(kind, codec, wave=sweep(48000))
    check(data, "audio")
    with pytest.raises(MediaError, match="cut short, replace it"):
        check(data[: len(data) * 7 // 8], "audio")


@pytest.mark.parametrize(
    "kind, codec",
    [
        ("ipod", "alac"),
        ("mp4", "aac"),
        ("mov", "pcm_s16le"),
        ("matroska", "libopus"),
        ("avi", "pcm_s16le"),
        ("flv", "aac"),
        ("adts", "aac"),
        ("ac3", "ac3"),
        ("eac3", "eac3"),
        ("mp2", "mp2"),
    ],
)
def test_a_container_that_is_cut_is_cut_short(kind, codec):
    data = encode_by_ffmpeg(kind, codec, RATES.get(codec, 16000))
    check(data, "audio")
    with pytest.raises(MediaError, match="cut short, replace it"):
        check(data[: len(data) * 5 // 8 + 5], "audio")


def test_the_message_counts(tmp_path):
    path = tmp_path / "plain.wav"
    path.write_bytes(write_by_soundfile("WAV", "PCM_16")[:20044])
    with pytest.raises(MediaError, match="plain.wav: ends after 20000 of 32000 bytes of audio: cut short, replace it"):
        check(path, "audio")


def test_what_is_left_of_a_cut_file_gives_the_window():
    """The window is centred on the samples that decode, not on the length in the header."""
    data = write_by_soundfile("MP3", wave=sweep(80000))
    half = data[: len(data) // 2]
    whole, _ = read_all(data)
    got, _ = read_all(half)
    assert 0.4 < len(got) / len(whole) < 0.5 and np.abs(got - whole[: len(got)]).max() < 1e-4
