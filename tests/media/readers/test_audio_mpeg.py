"""MPEG audio: frames are counted, whatever the header says, and joined files are read one by one."""

import io

import numpy as np
import pytest

from mmcl_fast.errors import MediaError
from mmcl_fast.media import VisualSpec, check
from mmcl_fast.media.readers.audio import mpeg_frames as sound_mpeg
from mmcl_fast.media.readers.audio.audio import read_wave
from mmcl_fast.media.readers.audio.mpeg_frames import find_runs, has_valid_lame_header
from tests.media.audio_files import ALL, decode_by_ffmpeg, encode_by_ffmpeg, read_all, sweep, write_by_soundfile

ID3 = b"ID3\4\0\0\0\0\x10\0" + bytes(2048)
ID3_1 = b"TAG" + bytes(125)
APE = b"".join(
    b"APETAGEX" + b"".join(number.to_bytes(4, "little") for number in (2000, 64, 1, flags)) + bytes(8) + fields
    for flags, fields in ((0xA0000000, bytes(32)), (0x80000000, b""))
)
VARIABLE = {"global_quality": "300", "flags": "+qscale"}


def without_header(mp3: bytes) -> bytes:
    """Return the frames alone, as an encoder that writes to a pipe leaves them."""
    (stretch,) = find_runs(io.BytesIO(mp3))
    assert stretch.stated
    return mp3[stretch.start + len(stretch.first_frame) : stretch.end]


def with_frames(mp3: bytes, frames: int) -> bytes:
    """Return the file with another number of frames in its header."""
    place = max(mp3.find(b"Xing", 0, 3000), mp3.find(b"Info", 0, 3000)) + 8
    return mp3[:place] + frames.to_bytes(4, "big") + mp3[place + 4 :]


def same(got: np.ndarray, want: np.ndarray) -> bool:
    return len(got) == len(want) and np.abs(got - want).max() < 1e-4


@pytest.mark.parametrize("options", [{}, VARIABLE], ids=["constant", "variable"])
@pytest.mark.parametrize("layout", ["mono", "stereo"])
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_any_header_gives_all_frames_as_ffmpeg_does(rate, layout, options):
    honest = encode_by_ffmpeg("mp3", "libmp3lame", rate, layout, **options)
    whole, got_rate = read_all(honest)
    assert got_rate == rate and len(whole) == rate and same(whole, decode_by_ffmpeg(honest)[0])
    bare = without_header(honest)
    frames = find_runs(io.BytesIO(bare))[0].frames
    for data in (bare, ID3 + bare, bytes(1500) + bare, bare + ID3_1, bare + APE, bare + APE + ID3_1):
        wave, _ = read_all(data)
        assert len(wave) == frames * (1152 if rate > 24000 else 576) and same(wave, decode_by_ffmpeg(bare)[0])
        check(data, "audio")
    for stated in (0, frames // 3, 3 * frames):
        data = with_frames(honest, stated)
        assert same(read_all(data)[0], whole)
        check(data, "audio")


@pytest.mark.parametrize("rate, layout", [(16000, "mono"), (44100, "stereo")])
def test_joined_files_are_their_parts(rate, layout):
    first, second = (
        encode_by_ffmpeg("mp3", "libmp3lame", rate, layout),
        write_by_soundfile("MP3", wave=sweep(30000, seed=1)),
    )
    for parts in (
        (first, first),
        (first, second, first),
        (ID3 + first + ID3_1, ID3 + first),
        (first, without_header(first)),
    ):
        data = b"".join(parts)
        wave, got_rate = read_all(data)
        assert got_rate == rate
        expected = [(len(part_wave), part_rate) for part_wave, part_rate in map(read_all, parts)]
        assert len(wave) == sum(-(-count * rate // part_rate) for count, part_rate in expected)
        head = read_all(parts[0])[0]
        assert np.abs(wave[: len(head)] - head).max() < 1e-4
        if rate == expected[-1][1]:
            tail = read_all(parts[-1])[0]
            assert np.abs(wave[-len(tail) :] - tail).max() < 1e-4
        check(data, "audio")


def test_the_window_of_joined_files_lies_across_the_seam():
    first, second = write_by_soundfile("MP3", wave=sweep(40000)), write_by_soundfile("MP3", wave=sweep(40000, seed=1))
    whole, _ = read_all(first + second)
    spec = VisualSpec(modality="audio", seconds=1.0)
    for shift in (None, 0.0, 0.3, 1.0):
        start = int((0.5 if shift is None else shift) * (len(whole) - 16001))
        got, _ = read_wave(first + second, spec, shift)
        assert same(got.numpy(), whole[start : start + 16001])


def test_a_stream_that_is_taken_up_in_the_middle():
    """As in a radio stream, the first frames refer to bits that are missing."""
    bare = without_header(encode_by_ffmpeg("mp3", "libmp3lame", 44100, b="64000"))
    for frame in (3, 5, 20):
        place = 0
        for _ in range(frame):
            place += sound_mpeg._HEADERS[bare[place : place + 3]][0]
        data = bare[place:]
        wave, want = read_all(data)[0], decode_by_ffmpeg(data)[0]
        assert len(wave) == len(want) and np.abs(wave).max() < 1 and np.abs(wave - want)[4 * 1152 :].max() < 1e-4
        check(data, "audio")


@pytest.mark.parametrize(
    "kind, codec, rate", [("mp2", "mp2", 16000), ("mp2", "mp2", 44100), ("wav", "libmp3lame", 44100)]
)
def test_layer_2_and_frames_in_a_wav(kind, codec, rate):
    data = encode_by_ffmpeg(kind, codec, rate)
    assert same(read_all(data)[0], decode_by_ffmpeg(data)[0]) and len(read_all(data)[0]) >= rate
    check(data, "audio")


def test_what_is_cut_and_what_is_not():
    honest = write_by_soundfile("MP3", wave=sweep(48000))
    bare = without_header(honest)
    check(bare, "audio")
    for cut in (honest[: len(honest) // 2], honest[:-100], bare[: len(bare) // 2], bare[:-10], honest + honest[:-100]):
        with pytest.raises(MediaError, match="cut short, replace it"):
            check(cut, "audio")
        assert len(read_wave(cut, ALL)[0]) > 16000
    with pytest.raises(MediaError, match="ends after .* of .* frames"):
        check(honest[: len(honest) // 2], "audio")
    check(bare[:-1], "audio")  # encoders leave out the last frame's padding


def test_the_limit_is_that_of_all_parts():
    data = write_by_soundfile("MP3", wave=sweep(48000)) * 3
    with pytest.raises(MediaError, match="lasts 9 s, the limit is 5 s"):
        read_wave(data, VisualSpec(modality="audio", max_seconds=5))


FILES = {
    "plain": write_by_soundfile("MP3"),
    "twice": write_by_soundfile("MP3") * 2,
    "tags": ID3 + write_by_soundfile("MP3") + ID3_1 + ID3 + write_by_soundfile("MP3", rate=44100, channels=2) + APE,
    "junk": bytes(1500) + without_header(write_by_soundfile("MP3")) + bytes(77) + write_by_soundfile("MP3"),
    "cut": (write_by_soundfile("MP3") * 3)[:-50],
}


@pytest.mark.parametrize("name", FILES)
def test_frames_are_found_in_any_piecemeal_reading(name, monkeypatch):
    """A file whose rest had exactly the length of the look-ahead once hung."""
    want = [vars(found) for found in find_runs(io.BytesIO(FILES[name]))]
    assert want
    for chunk in (100, 4096, 8191, 8192, 8193, len(FILES[name]) - 8192, len(FILES[name]) // 2):
        monkeypatch.setattr(sound_mpeg, "CHUNK", max(1, chunk))
        assert [vars(found) for found in find_runs(io.BytesIO(FILES[name]))] == want


def test_a_file_of_every_length_ends(monkeypatch):
    data = without_header(write_by_soundfile("MP3", wave=sweep(64000)))
    frames = find_runs(io.BytesIO(data))[0].frames
    monkeypatch.setattr(sound_mpeg, "CHUNK", 1 << 13)
    for missing in range(1, 400, 7):
        (found,) = find_runs(io.BytesIO(data[:-missing]))
        assert 0 <= frames - found.frames <= 1 + missing // 36


def test_a_sealed_header_is_believed():
    honest = write_by_soundfile("MP3", channels=2, rate=44100)
    assert all(map(has_valid_lame_header, map(io.BytesIO, (honest, ID3 + honest, honest + ID3_1))))
    for other in (honest * 2, honest[:-1], with_frames(honest, 5), without_header(honest), ID3, b"", bytes(9000)):
        assert not has_valid_lame_header(io.BytesIO(other))


def test_junk_between_frames_loses_no_frame():
    honest = write_by_soundfile("MP3", wave=sweep(48000))
    (stretch,) = find_runs(io.BytesIO(honest))
    place = len(stretch.first_frame)
    for _ in range(30):
        place += sound_mpeg._HEADERS[honest[place : place + 3]][0]
    assert [found.frames for found in find_runs(io.BytesIO(honest[:place] + bytes(300) + honest[place:]))] == [
        30,
        stretch.frames - 30,
    ]


def header_frame(bare: bytes, mark: bytes, flags: int, frames: int, size: int) -> bytes:
    """Return a frame of 417 bytes at 44.1 kHz with a header as before LAME: no delay, perhaps no counts."""
    mono = bare[3] >= 0xC0
    frame = bytearray(b"\xff\xfb\x90" + bare[3:4] + bytes(413))
    if mark == b"VBRI":
        frame[36:42] = mark + b"\0\1"
        frame[46:54] = size.to_bytes(4, "big") + frames.to_bytes(4, "big")
        frame[54:62] = b"\0\0\0\1\0\1\0\1"
    else:
        place = 21 if mono else 36
        numbers = [frames.to_bytes(4, "big")] * (flags & 1) + [size.to_bytes(4, "big")] * (flags >> 1)
        fields = mark + flags.to_bytes(4, "big") + b"".join(numbers)
        frame[place : place + len(fields)] = fields
    return bytes(frame)


@pytest.mark.parametrize("layout", ["mono", "stereo"])
@pytest.mark.parametrize("mark, flags", [(b"VBRI", 3), (b"Xing", 3), (b"Xing", 1), (b"Xing", 2), (b"Info", 0)])
def test_headers_of_other_encoders(mark, flags, layout):
    bare = without_header(encode_by_ffmpeg("mp3", "libmp3lame", 44100, layout))
    frames = find_runs(io.BytesIO(bare))[0].frames
    size = 417 + len(bare)
    data = header_frame(bare, mark, flags, frames, size) + bare
    wave, _ = read_all(data)
    assert len(wave) == frames * 1152 and same(wave, decode_by_ffmpeg(bare)[0])
    check(data, "audio")
    too_many = header_frame(bare, mark, flags, 5 * frames, size) + bare
    if flags != 1:  # the stated bytes are right, or nothing is stated
        check(too_many, "audio")
        with_more = header_frame(bare, mark, flags, frames, 2 * size) + bare[: len(bare) // 2 + 7]
        with pytest.raises(MediaError, match="cut short, replace it"):
            check(with_more, "audio")
    else:
        with pytest.raises(MediaError, match=f"ends after {frames} of {5 * frames} frames: cut short, replace it"):
            check(too_many, "audio")
    assert len(read_all(too_many)[0]) == frames * 1152
