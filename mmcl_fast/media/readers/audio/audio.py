"""Recordings by soundfile, and by PyAV what libsndfile does not read.

The length of a recording is what decodes, not what a header estimates: of an MP3 its frames are counted, and the links
of an Ogg chain are read one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mmcl_fast.errors import MediaError
from mmcl_fast.media.dsp import mel
from mmcl_fast.media.dsp.resample import resample
from mmcl_fast.media.dsp.views import View
from mmcl_fast.media.readers.audio import header_sizes as sound_header
from mmcl_fast.media.readers.audio import mpeg_frames as sound_mpeg
from mmcl_fast.media.readers.audio import ogg_links as sound_ogg
from mmcl_fast.media.readers.audio.file_part import FilePart, make_part
from mmcl_fast.media.readers.audio.libsndfile import FileSegment, ReopenedSegment, open_soundfile
from mmcl_fast.media.readers.audio.pyav import MAX_SAMPLES_IN_MEMORY, AvRecording
from mmcl_fast.media.readers.audio.segments import Segment, locate_window, read_window
from mmcl_fast.media.source import Source, head, limit_seconds, open_binary, size_of
from mmcl_fast.media.spec import VisualSpec

MAX_FLAC_SAMPLES = (
    1 << 36
)  # samples; a FLAC file cannot state so many, and libsndfile says more of one that states none


def read_audio(source: Source, spec: VisualSpec, view: View, whole: bool = False) -> Tensor:
    """A recording to its log-mel picture ``[1, 1, size, size]``."""
    wave, rate = read_wave(source, spec, view.shift, whole)
    wave = mel.take_window(resample(wave, rate, spec.sample_rate), spec, view.shift)
    return mel.log_mel_image(wave, spec)


def read_wave(source: Source, spec: VisualSpec, shift: float | None = None, whole: bool = False) -> tuple[Tensor, int]:
    """Mono float32 ``[T]`` and its rate in Hz: the channels' mean; of a long recording only the window.

    Args:
        source: the recording.
        spec: its ``seconds`` are the window's length, its ``max_seconds`` the limit of the recording's.
        shift: the window's place in the recording, 0 to 1. None: the centre.
        whole: decode all of it, and refuse a recording that is cut short.

    Raises:
        MediaError: the file holds no sound, is too long, damaged, or cut short.
    """
    import soundfile

    try:
        with open_soundfile(source) as file:
            plan = make_plan(source, file, whole)
            if not plan.by_av and plan.parts is None:
                limit_seconds(file.frames / file.samplerate, spec)
                if not whole and file.frames:
                    piece = FileSegment(file)
                    return piece.read(*locate_window(piece.samples, piece.rate, spec, shift)), piece.rate
    except soundfile.LibsndfileError:  # PyAV may read it
        plan = _plan_ogg(source) if head(source, 4) == b"OggS" else _plan_by_stated_size(source)
        plan = plan if plan.parts else ReadPlan(fault=plan.fault, by_av=True)
    if whole and plan.fault:
        raise MediaError(f"{plan.fault}: cut short, replace it")
    parts: Sequence[Source] = [source] if plan.parts is None else plan.parts
    kept = MAX_SAMPLES_IN_MEMORY // len(parts)
    pieces = [piece for part in parts for piece in _open_segments(part, spec, whole, plan.by_av, kept)]
    return read_window(pieces, spec, shift)


def _open_segments(source: Source, spec: VisualSpec, whole: bool, by_av: bool, kept: int) -> Sequence[Segment]:
    """A file or a part of one by libsndfile, or by PyAV what libsndfile does not read.

    ``whole`` decodes all of it. PyAV's samples stay in memory where there are at most ``kept``.
    """
    import soundfile

    if not by_av:
        try:
            piece = ReopenedSegment(source)
            limit_seconds(piece.samples / piece.rate, spec)
            if whole:
                piece.check()
            return [piece]
        except soundfile.LibsndfileError:
            pass
    try:
        sound = AvRecording(source, spec, whole, kept)
    except MediaError:
        raise
    except Exception as error:
        with open_binary(source) as opened:
            fault = sound_header.find_truncation(opened)
        if fault is None:
            raise
        raise MediaError(f"{fault}: cut short, replace it") from error
    fault = sound.missing()
    if whole and fault:
        raise MediaError(f"{fault}: cut short, replace it")
    return sound.pieces()


@dataclass(frozen=True)
class ReadPlan:
    """How a file that libsndfile opens is read.

    Attributes:
        parts: what is read one after the other. None: the file as it is.
        fault: what shows that the file is cut short.
        by_av: libsndfile does not know the file's length, PyAV counts it.
    """

    parts: list[FilePart] | None = None
    fault: str | None = None
    by_av: bool = False


def make_plan(source: Source, file: Any, whole: bool = False) -> ReadPlan:
    """How to read a source whose SoundFile is open; ``whole`` looks for a missing end at more cost."""
    if file.format == "MP3":
        return _plan_mpeg(source, file)
    if file.format == "OGG":
        return _plan_ogg(source)
    if file.format == "FLAC":
        return ReadPlan(by_av=not 0 < file.frames < MAX_FLAC_SAMPLES)
    if file.subtype.startswith("MPEG"):  # in a WAV, of which libsndfile guesses the length
        return ReadPlan(by_av=True)
    if whole or file.frames <= 0 or "hould be" in file.extra_info:  # libsndfile's log of sizes that do not fit
        return _plan_by_stated_size(source)
    return ReadPlan()


def _plan_by_stated_size(source: Source) -> ReadPlan:
    """A file whose header states how many bytes of sound follow, with that size where the header leaves it open."""
    with open_binary(source) as opened:
        part = sound_header.repair_size(source, opened)
        return ReadPlan([part] if part else None, sound_header.find_truncation(opened))


def _plan_mpeg(source: Source, file: Any) -> ReadPlan:
    """An MP3 as it is, if its header counts its frames rightly."""
    with open_binary(source) as opened:
        if sound_mpeg.has_valid_lame_header(opened):
            return ReadPlan()
        opened.seek(0)
        found = sound_mpeg.find_runs(opened)
    if not found:
        return ReadPlan()
    first, fault = found[0], sound_mpeg.find_truncation(found)
    if len(found) == 1 and first.kind.layer < 3:
        return ReadPlan(fault=fault, by_av=file.frames != first.frames * first.kind.samples)
    if any(stretch.kind.layer < 3 for stretch in found):
        return ReadPlan(fault=fault, by_av=True)
    if len(found) == 1 and sound_mpeg.is_exact(first):
        return ReadPlan(fault=fault)
    return ReadPlan([sound_mpeg.make_part_of_true_length(source, stretch) for stretch in found], fault)


def _plan_ogg(source: Source) -> ReadPlan:
    """An Ogg file as it is, if it is no chain."""
    with open_binary(source) as opened:
        begins = sound_ogg.find_links(opened)
        fault = "ends inside its last page" if sound_ogg.is_cut_short(opened, begins) else None
    if len(begins) < 2:
        return ReadPlan(fault=fault)
    ends = [*begins[1:], size_of(source)]
    return ReadPlan([make_part(source, begin, end) for begin, end in zip(begins, ends, strict=True)], fault)
