"""``read_wave`` agrees with a plain full decode by FFmpeg, for containers, codecs, rates, channels and headers."""

import itertools

import numpy as np
import pytest

from mmcl_fast.media import check
from tests.media.audio_files import decode_by_ffmpeg, encode_by_ffmpeg, read_all, sweep, write_by_soundfile

PCM = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")
LIBSNDFILE = [
    *itertools.product(["WAV", "WAVEX", "RF64", "W64"], PCM, [44100], [1, 2]),
    *itertools.product(["WAV"], ["GSM610"], [8000], [1]),
    *itertools.product(["WAV", "W64"], ["IMA_ADPCM", "MS_ADPCM"], [22050], [1, 2]),
    *itertools.product(
        ["AIFF"], ["PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"], [8000], [1, 2]
    ),
    *itertools.product(["AU"], ["PCM_S8", "PCM_16", "PCM_24", "FLOAT", "ULAW", "ALAW"], [16000], [1, 3]),
    *itertools.product(["CAF"], ["PCM_S8", "PCM_16", "PCM_24", "FLOAT", "ULAW", "ALAC_16", "ALAC_24"], [48000], [1, 2]),
    *itertools.product(["FLAC"], ["PCM_S8", "PCM_16", "PCM_24"], [8000, 44100, 96000], [1, 2, 6]),
    *itertools.product(["NIST"], ["PCM_16", "ULAW"], [16000], [1, 2]),
    *itertools.product(["OGG"], ["VORBIS"], [8000, 22050, 44100], [1, 2]),
    *itertools.product(["OGG"], ["OPUS"], [48000], [1, 2]),
    *itertools.product(["MP3"], [None], [8000, 11025, 12000, 22050, 24000, 32000, 44100, 48000], [1, 2]),
]
LOOSE = {"GSM610": 2e-3, "MS_ADPCM": 4e-3, "IMA_ADPCM": 2e-3, "OPUS": 2e-3}  # decoders round differently
BLOCKS = {"GSM610", "MS_ADPCM", "IMA_ADPCM"}  # their last block is padded; FFmpeg may stop at a count of samples
OTHERWISE = {"VORBIS", "ALAC_16", "ALAC_24"}  # FFmpeg does not cut a single page, and takes the end of ALAC for priming


@pytest.mark.parametrize("kind, codec, rate, channels", LIBSNDFILE)
def test_files_of_libsndfile(kind, codec, rate, channels):
    samples = rate // 2 + (18 if kind == "AIFF" else 17)  # libsndfile counts AIFF's odd byte of padding as a sample
    data = write_by_soundfile(kind, codec, rate, channels, wave=sweep(samples, rate))
    got, got_rate = read_all(data)
    want, want_rate = decode_by_ffmpeg(data)
    assert got_rate == want_rate == rate
    if codec in BLOCKS:
        assert 0 <= len(got) - samples < 2048
    else:
        assert len(got) == samples and (codec in OTHERWISE or len(want) == samples)
    count = min(len(got), len(want))
    assert np.abs(got[:count] - want[:count]).max() < LOOSE.get(codec, 2e-4)
    check(data, "audio")


FFMPEG = [
    *itertools.product(
        ["wav", "w64", "mov", "matroska", "avi"], ["pcm_s16le", "pcm_s24le"], [44100], ["mono", "stereo"]
    ),
    *itertools.product(
        ["wav"], ["pcm_u8", "pcm_s32le", "pcm_f32le", "pcm_f64le", "adpcm_ms", "adpcm_ima_wav"], [22050], ["mono"]
    ),
    *itertools.product(["aiff"], ["pcm_s16be", "pcm_s24be"], [48000], ["stereo"]),
    *itertools.product(["caf", "au"], ["pcm_s16be"], [8000], ["mono"]),
    *itertools.product(["flac"], ["flac"], [16000, 96000], ["mono", "5.1"]),
    *itertools.product(["ogg", "matroska", "webm", "mp4"], ["libopus"], [48000], ["mono", "stereo"]),
    *itertools.product(["mp3"], ["libmp3lame"], [16000, 44100], ["mono", "stereo"]),
    *itertools.product(["mp4", "ipod", "adts", "matroska", "mpegts", "flv"], ["aac"], [44100], ["mono", "stereo"]),
    *itertools.product(["mp4", "matroska", "mpegts"], ["libmp3lame"], [44100], ["stereo"]),
    *itertools.product(["ipod", "caf"], ["alac"], [44100], ["mono", "stereo"]),
    *itertools.product(["ac3", "mp4", "matroska", "mpegts"], ["ac3"], [48000], ["stereo", "5.1"]),
    *itertools.product(["eac3"], ["eac3"], [48000], ["stereo"]),
    *itertools.product(["mp2", "mpegts", "mpeg"], ["mp2"], [44100], ["mono", "stereo"]),
]


@pytest.mark.parametrize("kind, codec, rate, layout", FFMPEG)
def test_files_of_ffmpeg(kind, codec, rate, layout):
    data = encode_by_ffmpeg(kind, codec, rate, layout)
    got, got_rate = read_all(data)
    want, want_rate = decode_by_ffmpeg(data)
    assert got_rate == want_rate == rate and len(got) == len(want)
    assert abs(len(got) - rate) < 5000  # an encoder's delay and padding at most
    assert np.abs(got - want).max() < (2e-3 if "adpcm" in codec or codec == "libopus" else 2e-4)
    check(data, "audio")


@pytest.mark.parametrize("kind, codec", [("mp4", "aac"), ("mp4", "libopus"), ("mov", "pcm_s16le"), ("ipod", "alac")])
def test_fragments_without_a_duration(kind, codec):
    data = encode_by_ffmpeg(kind, codec, 48000, mux={"movflags": "frag_keyframe+empty_moov"})
    got, rate = read_all(data)
    assert rate == 48000 and len(got) == len(decode_by_ffmpeg(data)[0]) and abs(len(got) - 48000) < 3000
    check(data, "audio")


@pytest.mark.parametrize("rate", [8000, 12000, 16000, 24000, 48000])
def test_opus_lasts_as_long_at_any_rate(rate):
    """libsndfile decodes at the rate of the original, FFmpeg at 48 kHz."""
    data = write_by_soundfile("OGG", "OPUS", rate, wave=sweep(rate, rate))
    assert (len(read_all(data)[0]), read_all(data)[1], len(decode_by_ffmpeg(data)[0])) == (rate, rate, 48000)
    check(data, "audio")
