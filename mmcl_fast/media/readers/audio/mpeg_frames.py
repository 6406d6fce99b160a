"""The frames of an MPEG audio file (MP1, MP2, MP3), counted by their headers, because only they tell its true length.

A frame's header gives its bit rate, sampling rate and padding, and so its size (ISO 11172-3, 2.4.1.3; ISO 13818-3). A
Xing, Info or VBRI header in the first frame may state how many frames follow. That header may be missing or wrong, and
joined files hold several. libsndfile believes it, or estimates the length from the file's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from mmcl_fast.media.readers.audio.file_part import FilePart, make_part
from mmcl_fast.media.source import Source

CHUNK = 1 << 22  # bytes read at once
MAX_FRAME = 1 << 13  # bytes; no frame, and no tag of fixed size, is longer
OVERESTIMATE = 64  # no frame is longer than this many of the shortest frames
ENCODERS = (b"LAME", b"Lavf", b"Lavc", b"L3.9")  # encoders that write their delay into the header
CHECKSUM = 154  # bytes from the mark of a LAME header to its checksum
MONO = 0xC0  # the fourth byte of a frame's header is at least this for one channel

# kbit/s by the header's bit rate index 1 to 14.
_LAYER_1 = (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448)
_LAYER_2 = (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384)
_LAYER_3 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_LOW_1 = (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256)
_LOW_23 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES = (44100, 48000, 32000)  # Hz of version 1


@dataclass(frozen=True)
class FrameKind:
    """The properties that all frames of a run share.

    Attributes:
        layer: 1 to 3.
        rate: in Hz.
        samples: of a frame, per channel.
        low: whether it is MPEG 2 or 2.5, with lower sampling rates and a shorter frame.
    """

    layer: int
    rate: int
    samples: int
    low: bool


def _headers() -> dict[bytes, tuple[int, FrameKind]]:
    """Return the size in bytes and the kind of a frame, by the first three bytes of each possible header."""
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
    """A Xing, Info or VBRI header.

    Attributes:
        mark: b"Xing", b"Info" or b"VBRI".
        frames: number of frames that follow; None: not stated.
        size: bytes of the run; None: not stated.
    """

    mark: bytes
    frames: int | None
    size: int | None


@dataclass
class FrameRun:
    """Frames of one kind that one encoder wrote, one after the other.

    Attributes:
        start, end: offsets in the file of the first frame and behind the last complete one.
        kind: the properties that the frames share.
        mono: whether they hold one channel.
        first_frame: the bytes of the first frame. It holds no audio if ``stated`` is set.
        stated: the frame count header in the first frame; None: there is none.
        frames: number of complete frames that hold audio.
        ends_in_frame: whether the file ends inside one more frame.
    """

    start: int
    end: int
    kind: FrameKind
    mono: bool
    first_frame: bytes
    stated: FrameCountHeader | None
    frames: int
    ends_in_frame: bool = False


def find_runs(file: BinaryIO) -> list[FrameRun]:
    """Return all runs of an open file in their order. Tags and junk between them are left out."""
    scanner, found = _Scanner(file), []
    while scanner.find_frame():
        found.append(scanner.read_run())
    return found


class _Scanner:
    """A position in a file that is read a chunk at a time."""

    def __init__(self, file: BinaryIO):
        self.file, self.data, self.base, self.place, self.ended = file, b"", 0, 0, False

    def _fill(self) -> bool:
        """Read until more than ``MAX_FRAME`` bytes are in memory, or the file ends. Return whether bytes are left."""
        while not self.ended and len(self.data) - self.place <= MAX_FRAME:
            more = self.file.read(CHUNK)
            self.ended = not more
            self.base += self.place
            self.data, self.place = self.data[self.place :] + more, 0
        return self.place < len(self.data)

    def _skip(self, count: int) -> None:
        while count and self._fill():
            step = min(count, len(self.data) - self.place)
            self.place += step
            count -= step

    def find_frame(self) -> bool:
        """Move to the next frame that is followed by a frame of its kind, a tag or the file's end; False: none is."""
        while self._fill():
            if tag := _tag_size(self.data, self.place):
                self._skip(tag)
                continue
            known = _HEADERS.get(self.data[self.place : self.place + 3])
            if known and self._is_followed(self.place + known[0], known[1]):
                return True
            sync = self.data.find(b"\xff", self.place + 1)
            self.place = len(self.data) if sync < 0 else sync
        return False

    def _is_followed(self, end: int, kind: FrameKind) -> bool:
        """Return whether a frame that ends at ``end`` is followed by a frame of its kind, a tag or the file's end."""
        if end >= len(self.data):
            return end == len(self.data)
        known = _HEADERS.get(self.data[end : end + 3])
        return known[1] is kind if known else bool(_tag_size(self.data, end))

    def read_run(self) -> FrameRun:
        """Return the run that begins here, and move behind it."""
        size, kind = _HEADERS[self.data[self.place : self.place + 3]]
        first = self.data[self.place : self.place + size]
        mono = first[3] >= MONO
        stated = _read_frame_count_header(first, kind, mono)
        run = FrameRun(self.base + self.place, 0, kind, mono, first, stated, int(stated is None))
        self.place += size
        while self._fill() and self._step_over(run):
            pass
        run.end = self.base + self.place
        if run.ends_in_frame:
            self._skip(size)
        return run

    def _step_over(self, run: FrameRun) -> bool:
        """Step over the frames in memory. Return whether the run may continue behind them."""
        data, place, frames, size = self.data, self.place, 0, 0
        kind, mono, stops = run.kind, run.mono, _find_frame_count_headers(data, place)
        ends, counted = _stated_end(run)
        ends -= self.base
        last = len(data) - (3 if self.ended else MAX_FRAME)
        goes_on = not self.ended
        while place < last:
            known = _HEADERS.get(data[place : place + 3])
            if known is None or known[1] is not kind or (data[place + 3] >= MONO) != mono or place in stops:
                goes_on = False
                break
            # The encoder's padding ends the recording here, so another one begins.
            if place == ends and run.frames + frames == counted:
                goes_on = False
                break
            size = known[0]
            place += size
            frames += 1
        if place > len(data) + 1:  # one byte may be missing: encoders leave out the last frame's padding
            place, frames, run.ends_in_frame = place - size, frames - 1, True
        self.place = min(place, len(data))
        run.frames += frames
        return goes_on


def _stated_end(run: FrameRun) -> tuple[int, int]:
    """Return where the audio ends by a header that states the encoder's padding, and after how many frames.

    (-1, 0): there is no such header.
    """
    stated = run.stated
    if stated is None or stated.frames is None or stated.size is None or not has_delay(run):
        return -1, 0
    return run.start + stated.size, stated.frames


def _tag_size(data: bytes, place: int) -> int:
    """Return the size in bytes of the tag at ``place``: ID3v2, ID3v1, APE or the header of Lyrics3. 0: no tag."""
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
    """Return the offset in a frame of Xing or Info, behind the header and the side information."""
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
    """Return the places of frames in memory that hold a Xing, Info or VBRI header. A new run begins at each."""
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
    """Return whether the LAME header of an open file has a valid checksum and states exactly the file's size.

    The checksum covers the counts of frames and bytes. So the counts are right, and no frame has to be read.
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
    """Return the CRC-16 with the polynomial 0x8005, lowest bit first."""
    value = 0
    for byte in data:
        value = _CRC[(value ^ byte) & 0xFF] ^ value >> 8
    return value


def _crc_of(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0xA001 if byte & 1 else 0)
    return byte


_CRC = [_crc_of(byte) for byte in range(256)]


def make_part_of_true_length(source: Source, run: FrameRun) -> FilePart:
    """Return a run of layer 3 as a file whose length libsndfile reads rightly.

    Its samples are the same as FFmpeg's. The encoder's delay and padding are cut off if a header by LAME or FFmpeg
    states them. Otherwise all frames count.
    """
    first, start = run.first_frame, run.start
    if run.stated:
        start += len(first)
    if has_delay(run):
        place = _mark_place(run.kind, run.mono) + 8
        counts = run.frames.to_bytes(4, "big") + (run.end - run.start).to_bytes(4, "big")
        return make_part(source, start, run.end, first[:place] + counts + first[place + 8 :])
    # libsndfile estimates the length from the file's size. With this padding the estimate is never too short.
    padding = OVERESTIMATE * (run.end - start) + MAX_FRAME
    return make_part(source, start, run.end, padding=padding, samples=run.frames * run.kind.samples)


def has_delay(run: FrameRun) -> bool:
    """Return whether the run's header states the encoder's delay, as LAME's and FFmpeg's headers do."""
    place = _mark_place(run.kind, run.mono)
    flags = run.first_frame[place + 4 : place + 8]
    return run.stated is not None and flags == b"\0\0\0\x0f" and run.first_frame[place + 120 :][:4] in ENCODERS


def is_exact(run: FrameRun) -> bool:
    """Return whether libsndfile reads the right length from the run's header."""
    return run.stated is not None and run.stated.frames == run.frames and has_delay(run)


def find_truncation(found: list[FrameRun]) -> str | None:
    """Return the sign that the file ends before its audio does, for a message; None: there is none.

    The file ends inside a frame, or a header states more frames. A header that states too many frames but the right
    number of bytes is only wrong. Frames behind junk count, too.

    Args:
        found: all runs of the file.
    """
    for number, run in enumerate(found):
        stated, last = run.stated, run
        frames = run.frames
        for other in found[number + 1 :]:
            if other.stated or other.kind is not run.kind:
                break
            frames, last = frames + other.frames, other
        size = last.end - run.start
        if stated and (stated.frames or 0) > frames and (not stated.size or stated.size > size + 1):
            return f"ends after {frames} of {stated.frames} frames"
    return "ends inside its last frame" if found and found[-1].ends_in_frame else None
