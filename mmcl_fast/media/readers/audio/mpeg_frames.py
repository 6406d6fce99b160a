"""The frames of an MPEG audio file (MP1, MP2, MP3), counted by their headers: only they tell its true length.

A frame's header gives its bit rate, sampling rate and padding, and so its size (ISO 11172-3, 2.4.1.3; ISO 13818-3).
A Xing, Info or VBRI header in the first frame may state how many frames follow. It may be missing or wrong, and
joined files hold several.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from mmcl_fast.media.readers.audio.file_part import FilePart, make_part
from mmcl_fast.media.source import Source

CHUNK = 1 << 22  # bytes read at once
MAX_FRAME = 1 << 13  # bytes; no frame and no tag of fixed size is longer
OVERESTIMATE = 64  # no frame is longer than so many of the shortest ones
ENCODERS = (b"LAME", b"Lavf", b"Lavc", b"L3.9")  # that write their delay into the header
CHECKSUM = 154  # bytes from the mark of a LAME header to its checksum
MONO = 0xC0  # the fourth byte of a header is at least this for one channel

# kbit/s by the header's bit rate index 1 to 14.
_LAYER_1 = (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448)
_LAYER_2 = (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384)
_LAYER_3 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_LOW_1 = (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256)
_LOW_23 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES = (44100, 48000, 32000)  # Hz of version 1


@dataclass(frozen=True)
class FrameKind:
    """What all frames of a stream share: layer 1 to 3, Hz, samples a frame, and whether the rates are halved."""

    layer: int
    rate: int
    samples: int
    low: bool


def _headers() -> dict[bytes, tuple[int, FrameKind]]:
    """The frame's size in bytes and its kind, by the first three bytes of each possible header."""
    found = {}
    for version, shift in ((3, 0), (2, 1), (0, 2)):  # MPEG 1, 2 and 2.5
        for layer in (1, 2, 3):
            low = version != 3
            rates = ((_LOW_1, _LOW_23, _LOW_23) if low else (_LAYER_1, _LAYER_2, _LAYER_3))[layer - 1]
            samples = 384 if layer == 1 else 576 if layer == 3 and low else 1152
            for rate_index, full_rate in enumerate(_RATES):
                kind = FrameKind(layer, full_rate >> shift, samples, low)
                for index, kbits in enumerate(rates, 1):
                    for low_bits in range(4):  # padding and the private bit
                        padding = low_bits >> 1
                        slot = 4 if layer == 1 else 1
                        size = (samples // (8 * slot) * kbits * 1000 // kind.rate + padding) * slot
                        for crc in (0, 1):
                            second = 0xE0 | version << 3 | (4 - layer) << 1 | crc
                            third = index << 4 | rate_index << 2 | low_bits
                            found[bytes((0xFF, second, third))] = size, kind
    return found


_HEADERS = _headers()


@dataclass(frozen=True)
class FrameCountHeader:
    """What a Xing, Info or VBRI header says: how many frames and bytes follow. None: it does not say."""

    mark: bytes
    frames: int | None
    size: int | None


@dataclass
class FrameRun:
    """Frames of one kind that one encoder wrote, one after the other.

    Attributes:
        start, end: place in the file of the first frame and behind the last whole one, in bytes.
        kind: what the frames share.
        mono: whether they hold one channel.
        first: the bytes of the first frame. With ``stated`` it holds no sound.
        stated: the header in the first frame.
        frames: number of whole frames that hold sound.
        torn: whether the file ends inside one more frame.
    """

    start: int
    end: int
    kind: FrameKind
    mono: bool
    first: bytes
    stated: FrameCountHeader | None
    frames: int
    torn: bool = False


def find_runs(file: BinaryIO) -> list[FrameRun]:
    """All stretches of an open file in their order. Tags and junk between them are left out."""
    scan, found = _Scanner(file), []
    while scan.find():
        found.append(scan.follow())
    return found


class _Scanner:
    """A place in a file that is read a chunk at a time."""

    def __init__(self, file: BinaryIO):
        self.file, self.data, self.base, self.place, self.ended = file, b"", 0, 0, False

    def _ahead(self) -> bool:
        """Whether bytes are left; then more than ``LONGEST`` are in memory, or all up to the file's end."""
        while not self.ended and len(self.data) - self.place <= MAX_FRAME:
            more = self.file.read(CHUNK)
            self.ended = not more
            self.base += self.place
            self.data, self.place = self.data[self.place :] + more, 0
        return self.place < len(self.data)

    def _skip(self, count: int) -> None:
        while count and self._ahead():
            step = min(count, len(self.data) - self.place)
            self.place += step
            count -= step

    def find(self) -> bool:
        """Moves to the next frame that another frame of its kind, a tag or the file's end follows."""
        while self._ahead():
            if tag := _tag_size(self.data, self.place):
                self._skip(tag)
                continue
            known = _HEADERS.get(self.data[self.place : self.place + 3])
            if known and self._goes_on(self.place + known[0], known[1]):
                return True
            sync = self.data.find(b"\xff", self.place + 1)
            self.place = len(self.data) if sync < 0 else sync
        return False

    def _goes_on(self, end: int, kind: FrameKind) -> bool:
        if end >= len(self.data):
            return end == len(self.data)
        known = _HEADERS.get(self.data[end : end + 3])
        return known[1] is kind if known else bool(_tag_size(self.data, end))

    def follow(self) -> FrameRun:
        """The stretch that begins here; moves behind it."""
        size, kind = _HEADERS[self.data[self.place : self.place + 3]]
        first = self.data[self.place : self.place + size]
        mono = first[3] >= MONO
        stated = _read_frame_count_header(first, kind, mono)
        stretch = FrameRun(self.base + self.place, 0, kind, mono, first, stated, int(stated is None))
        self.place += size
        while self._ahead() and self._run(stretch):
            pass
        stretch.end = self.base + self.place
        if stretch.torn:
            self._skip(size)
        return stretch

    def _run(self, stretch: FrameRun) -> bool:
        """Steps over the frames in memory. False: the stretch ends here."""
        data, place, frames, size = self.data, self.place, 0, 0
        kind, mono, stops = stretch.kind, stretch.mono, _find_frame_count_headers(data, place)
        ends, counted = _stated_end(stretch)
        ends -= self.base
        last = len(data) - (3 if self.ended else MAX_FRAME)
        goes_on = not self.ended
        while place < last:
            known = _HEADERS.get(data[place : place + 3])
            if known is None or known[1] is not kind or (data[place + 3] >= MONO) != mono or place in stops:
                goes_on = False
                break
            if place == ends and stretch.frames + frames == counted:  # padding lies here, so another's sound begins
                goes_on = False
                break
            size = known[0]
            place += size
            frames += 1
        if place > len(data) + 1:  # by one byte: encoders may leave out the last frame's padding
            place, frames, stretch.torn = place - size, frames - 1, True
        self.place = min(place, len(data))
        stretch.frames += frames
        return goes_on


def _stated_end(stretch: FrameRun) -> tuple[int, int]:
    """Where a header that tells the encoder's padding says that the sound ends, and after how many frames."""
    stated = stretch.stated
    if stated is None or stated.frames is None or stated.size is None or not has_delay(stretch):
        return -1, 0
    return stretch.start + stated.size, stated.frames


def _tag_size(data: bytes, place: int) -> int:
    """Bytes of the tag at a place: ID3v2, ID3v1, APE or the header of Lyrics3. 0: there is none."""
    mark = data[place : place + 8]
    if mark[:3] == b"ID3":
        size = data[place + 6 : place + 10]
        if len(size) == 4 and max(size) < 0x80:  # seven bits a byte
            footer = 10 if data[place + 5] & 0x10 else 0
            return 10 + footer + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3])
    if mark[:3] == b"TAG":
        return 128
    if mark == b"APETAGEX":
        fields = data[place + 8 : place + 32]
        size_of_rest = int.from_bytes(fields[4:8], "little")
        return 32 + (size_of_rest if fields[12:16] and fields[15] & 0x20 else 0)  # the header; else the footer
    return 11 if mark == b"LYRICSBE" else 0


def _mark_place(kind: FrameKind, mono: bool) -> int:
    """Where in a frame Xing or Info stands: behind the header and the side information."""
    if kind.low:
        return 13 if mono else 21
    return 21 if mono else 36


def _read_frame_count_header(frame: bytes, kind: FrameKind, mono: bool) -> FrameCountHeader | None:
    if kind.layer != 3:
        return None
    place = _mark_place(kind, mono)
    mark = frame[place : place + 4]
    if mark in (b"Xing", b"Info"):
        flags = int.from_bytes(frame[place + 4 : place + 8], "big")
        numbers = [int.from_bytes(frame[at : at + 4], "big") for at in (place + 8, place + 12)]
        frames = numbers.pop(0) if flags & 1 else None
        return FrameCountHeader(mark, frames, numbers[0] if flags & 2 else None)
    if frame[36:40] == b"VBRI":
        size, frames = (int.from_bytes(frame[at : at + 4], "big") for at in (46, 50))
        return FrameCountHeader(b"VBRI", frames, size)
    return None


def _find_frame_count_headers(data: bytes, start: int) -> set[int]:
    """Places of frames in memory that hold a Xing, Info or VBRI header: each begins what another encoder wrote."""
    found = set()
    for mark, places in ((b"Xing", (36, 21, 13)), (b"Info", (36, 21, 13)), (b"VBRI", (36,))):
        hit = data.find(mark, start)
        while hit >= 0:
            for frame in (hit - place for place in places):
                known = _HEADERS.get(data[frame : frame + 3]) if frame >= start else None
                if known and _read_frame_count_header(
                    data[frame : frame + known[0]], known[1], data[frame + 3] >= MONO
                ):
                    found.add(frame)
            hit = data.find(mark, hit + 4)
    return found


def has_valid_lame_header(file: BinaryIO) -> bool:
    """Whether an open file's LAME header is as the encoder left it and states the file's very size.

    Its checksum covers its counts. So they hold, and no frame need be looked at.
    """
    place, size = 0, file.seek(0, 2)
    file.seek(0)
    head = file.read(MAX_FRAME)
    while tag := _tag_size(head, 0):
        place += tag
        file.seek(place)
        head = file.read(MAX_FRAME)
    length, kind = _HEADERS.get(head[:3], (0, None))
    if kind is None or len(head) <= length:
        return False
    stated = _read_frame_count_header(head[:length], kind, head[3] >= MONO)
    end = _mark_place(kind, head[3] >= MONO) + CHECKSUM
    if not stated or stated.mark == b"VBRI" or head[end - CHECKSUM + 120 :][:4] not in ENCODERS:
        return False
    if int.from_bytes(head[end : end + 2], "big") != _checksum(head[:end]):
        return False
    file.seek(max(0, size - 128))
    return stated.size in (size - place, size - place - 128 if file.read(3) == b"TAG" else 0)


def _checksum(data: bytes) -> int:
    """CRC-16 with the polynomial 0x8005, lowest bit first."""
    value = 0
    for byte in data:
        value = _CRC[(value ^ byte) & 0xFF] ^ value >> 8
    return value


def _crc_of(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0xA001 if byte & 1 else 0)
    return byte


_CRC = [_crc_of(byte) for byte in range(256)]


def make_part_of_true_length(source: Source, stretch: FrameRun) -> FilePart:
    """A stretch of layer 3 as a file whose length libsndfile takes as it is.

    Its samples are those that ffmpeg gives: the encoder's delay and padding are cut off where a header by LAME or
    ffmpeg tells them. Otherwise all frames count.
    """
    first, start = stretch.first, stretch.start
    if stretch.stated:
        start += len(first)
    if has_delay(stretch):
        place = _mark_place(stretch.kind, stretch.mono) + 8
        counts = stretch.frames.to_bytes(4, "big") + (stretch.end - stretch.start).to_bytes(4, "big")
        return make_part(source, start, stretch.end, first[:place] + counts + first[place + 8 :])
    # libsndfile estimates the length from the file's size. With the padding it is never too short.
    padding = OVERESTIMATE * (stretch.end - start) + MAX_FRAME
    return make_part(source, start, stretch.end, padding=padding, samples=stretch.frames * stretch.kind.samples)


def has_delay(stretch: FrameRun) -> bool:
    """Whether the stretch's header tells the encoder's delay, as LAME's and ffmpeg's do."""
    place = _mark_place(stretch.kind, stretch.mono)
    flags = stretch.first[place + 4 : place + 8]
    return stretch.stated is not None and flags == b"\0\0\0\x0f" and stretch.first[place + 120 :][:4] in ENCODERS


def is_exact(stretch: FrameRun) -> bool:
    """Whether libsndfile knows the stretch's length from its header."""
    return stretch.stated is not None and stretch.stated.frames == stretch.frames and has_delay(stretch)


def find_truncation(found: list[FrameRun]) -> str | None:
    """What shows that the file ends before its sound does: it ends inside a frame, or a header states more frames.

    A header that states too many frames but the right number of bytes is only wrong. Frames behind junk still count.
    """
    for number, stretch in enumerate(found):
        stated, last = stretch.stated, stretch
        frames = stretch.frames
        for other in found[number + 1 :]:
            if other.stated or other.kind is not stretch.kind:
                break
            frames, last = frames + other.frames, other
        size = last.end - stretch.start
        if stated and (stated.frames or 0) > frames and (not stated.size or stated.size > size + 1):
            return f"ends after {frames} of {stated.frames} frames"
    return "ends inside its last frame" if found and found[-1].torn else None
