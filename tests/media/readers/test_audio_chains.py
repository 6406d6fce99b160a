"""Ogg chains, streams that change in the middle, and recordings with a cover."""

import base64
import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from mmcl_fast.errors import MediaError
from mmcl_fast.media import VisualSpec, check, decode
from mmcl_fast.media.dsp.resample import resample
from mmcl_fast.media.dsp.views import View
from mmcl_fast.media.engines.dali import routes as dali_routes
from mmcl_fast.media.readers.audio import audio
from mmcl_fast.media.readers.audio import ogg_links as sound_ogg
from mmcl_fast.media.readers.audio.audio import read_wave
from mmcl_fast.media.source import Slice
from tests.media.audio_files import (
    copy_with_cover,
    decode_by_ffmpeg,
    encode_by_ffmpeg,
    read_all,
    sweep,
    write_by_soundfile,
)
from tests.media.files import jpeg, plain

VORBIS = write_by_soundfile("OGG", "VORBIS")
LOUD = write_by_soundfile("OGG", "VORBIS", 44100, 2, wave=sweep(44100, 44100))
OPUS = write_by_soundfile("OGG", "OPUS")
OPUS_48 = write_by_soundfile("OGG", "OPUS", 48000, wave=sweep(48000, 48000))
FLAC = copy_with_cover(write_by_soundfile("FLAC", "PCM_16"), "ogg")
COVER = jpeg(Image.new("RGB", (64, 48), "red"))
CHAINS = {
    "equal": (VORBIS, VORBIS),
    "ten": (VORBIS,) * 10,
    "other rate and channels": (VORBIS, LOUD),
    "down": (LOUD, VORBIS, LOUD),
    "opus": (OPUS, OPUS),
    "opus of two rates": (OPUS_48, OPUS),
    "other codec": (VORBIS, OPUS, FLAC),
    "flac": (FLAC, FLAC),
}


@pytest.mark.parametrize("links", CHAINS.values(), ids=CHAINS)
def test_a_chain_is_all_of_its_links(links, tmp_path):
    waves = [read_all(link) for link in links]
    rate = max(own for _, own in waves)
    got, got_rate = read_all(b"".join(links))
    assert got_rate == rate
    place = 0
    for wave, own in waves:
        want = resample(torch.from_numpy(wave), own, rate).numpy()
        assert np.abs(got[place : place + len(want)] - want).max() < 1e-4
        place += len(want)
    assert place == len(got)
    check(b"".join(links), "audio")
    path = tmp_path / "chain.ogg"
    path.write_bytes(b"before" + b"".join(links) + b"behind")
    inside = Slice(str(path), 6, sum(map(len, links)), "chain.ogg")
    assert np.array_equal(read_all(inside)[0], got)


@pytest.mark.parametrize("links", [(VORBIS, VORBIS, VORBIS), (VORBIS, LOUD)], ids=["equal", "other rate"])
def test_the_window_of_a_chain_lies_across_its_seams(links):
    data = b"".join(links)
    whole, rate = read_all(data)
    spec = VisualSpec(modality="audio", seconds=1.0)
    for shift in (None, 0.0, 0.2, 0.7, 1.0):
        got, _ = read_wave(data, spec, shift)
        start = int((0.5 if shift is None else shift) * (len(whole) - rate - 1))
        assert len(got) == rate + 1
        assert np.abs(got.numpy() - whole[start : start + rate + 1]).max() < 1e-4


def test_the_picture_of_a_chain_is_full():
    spec = plain("audio", size=64, seconds=3.0, window_policy="pad")
    columns = decode(VORBIS * 3, "audio", spec)[0, 0].amax(0)
    assert (columns > 0.5).all()
    assert (decode(VORBIS, "audio", spec)[0, 0].amax(0) > 0.5).sum() in (21, 22, 23)


def test_the_limit_is_that_of_the_chain():
    with pytest.raises(MediaError, match="lasts 3 s, the limit is 2 s: cut it or raise max_seconds"):
        read_wave(VORBIS * 3, VisualSpec(modality="audio", max_seconds=2))


def test_a_torn_page_is_cut_short_wherever_a_link_ends():
    for data in (VORBIS[:-9], VORBIS + VORBIS[:-9], OPUS[:-9], FLAC[:-9], VORBIS[:-9] + VORBIS):
        with pytest.raises(MediaError, match="ends inside its last page: cut short, replace it"):
            check(data, "audio")
    without_end = VORBIS + VORBIS[: VORBIS.rindex(b"OggS")]  # whole pages, no last one: a capture that was stopped
    assert not sound_ogg.is_cut_short(io.BytesIO(without_end), sound_ogg.find_links(io.BytesIO(without_end)))


def test_links_are_found_in_any_piecemeal_reading(monkeypatch):
    data = VORBIS + LOUD + FLAC + OPUS
    want = [0, len(VORBIS), len(VORBIS + LOUD), len(VORBIS + LOUD + FLAC)]
    for chunk in (7, 22, 23, 1000, len(VORBIS) + 5, 1 << 20):
        monkeypatch.setattr(sound_ogg, "CHUNK", chunk)
        assert sound_ogg.find_links(io.BytesIO(data)) == want


@pytest.mark.parametrize("kind, codec", [("adts", "aac"), ("ac3", "ac3")])
def test_a_stream_that_changes_its_rate_on_the_way(kind, codec):
    slow, fast = 32000, 44100
    first, second = encode_by_ffmpeg(kind, codec, slow), encode_by_ffmpeg(kind, codec, fast, "stereo")
    for parts in ((first, second), (second, first)):
        counts = [-(-len(wave) * fast // rate) for wave, rate in map(read_all, parts)]
        wave, rate = read_all(b"".join(parts))
        assert rate == fast and len(wave) == sum(counts)
        check(b"".join(parts), "audio")


@pytest.mark.parametrize(
    "kind, data",
    [
        ("mp3", write_by_soundfile("MP3")),
        ("flac", write_by_soundfile("FLAC", "PCM_16")),
        ("mp4", encode_by_ffmpeg("mp4", "aac", 44100)),
        ("matroska", OPUS),
    ],
)
def test_a_cover_changes_no_sound(kind, data):
    covered = copy_with_cover(data, kind, COVER)
    assert COVER in covered
    without = copy_with_cover(data, kind)
    assert np.array_equal(read_all(covered)[0], read_all(without)[0]) and read_all(covered)[1] == read_all(without)[1]
    assert abs(len(read_all(covered)[0]) - len(decode_by_ffmpeg(covered)[0])) < 600
    check(covered, "audio")


def opus_with_cover() -> bytes:
    """Return an Opus file with a METADATA_BLOCK_PICTURE (RFC 7845, 5.2.1; FLAC's picture block, in base 64)."""
    kind = struct.pack(">II10s", 3, 10, b"image/jpeg")  # the front cover
    block = kind + struct.pack(">IIIIII", 0, 64, 48, 24, 0, len(COVER)) + COVER
    comment = b"METADATA_BLOCK_PICTURE=" + base64.b64encode(block)
    packet = b"OpusTags" + struct.pack("<I", 4) + b"test" + struct.pack("<II", 1, len(comment)) + comment
    first, second, rest = (OPUS.split(b"OggS", 3))[1:]
    serial = second[10:14]
    laces = bytes([255] * (len(packet) // 255) + [len(packet) % 255])
    page = b"OggS\0\0" + bytes(8) + serial + (1).to_bytes(4, "little") + bytes(4) + bytes([len(laces)]) + laces + packet
    page = page[:22] + checksum(page).to_bytes(4, "little") + page[26:]
    return b"OggS" + first + page + b"OggS" + rest


def checksum(page: bytes) -> int:
    """Return the checksum of an Ogg page (RFC 3533, section 6)."""
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFFFFFF
    return value


def test_an_opus_with_a_cover_is_a_sound():
    data = opus_with_cover()
    assert len(decode_by_ffmpeg(data)[0]) == 48000
    assert np.array_equal(read_all(data)[0], read_all(OPUS)[0]) and len(read_all(data)[0]) == read_all(data)[1]
    assert len(read_all(data + data)[0]) == 2 * read_all(data)[1]
    check(data, "audio")


def test_dali_gets_only_what_its_header_describes():
    """DALI would read only a chain's first link, and would believe an open or wrong length in a header."""
    spec = plain("audio", seconds=5.0)
    flac, wav = write_by_soundfile("FLAC", "PCM_16"), write_by_soundfile("WAV", "PCM_16")
    for data in (VORBIS, flac, wav):
        feed = dali_routes.route_audio(data, spec, View(), False)
        assert feed is not None and feed.samples == 16000
    open_wav = wav[:40] + b"\xff" * 4 + wav[44:]
    for data in (VORBIS + VORBIS, VORBIS[:-9], open_wav, wav[:-1000], wav[:40] + bytes(4) + wav[44:]):
        assert dali_routes.route_audio(data, spec, View(), False) is None


@pytest.mark.parametrize("kind", ["one rate", "two rates", "links"])
def test_a_long_sound_is_decoded_twice_and_not_kept(kind, monkeypatch):
    aac = encode_by_ffmpeg("adts", "aac", 44100)
    data = {"one rate": aac * 3, "two rates": encode_by_ffmpeg("adts", "aac", 32000) + aac, "links": FLAC + FLAC}[kind]
    spec = VisualSpec(modality="audio", seconds=0.7)
    want = {shift: read_wave(data, spec, shift)[0] for shift in (None, 0.0, 0.3, 1.0)}
    monkeypatch.setattr(audio, "MAX_SAMPLES_IN_MEMORY", 1000)
    for shift, wave in want.items():
        got = read_wave(data, spec, shift)[0]
        assert got.shape == wave.shape and (got - wave).abs().max() < 1e-6
    check(data, "audio")
