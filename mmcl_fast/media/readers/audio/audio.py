"""Recordings by soundfile, or by PyAV where libsndfile cannot read them.

The length of a recording is the length that decodes, not an estimate of a header. So the frames of an MP3 are counted,
and the links of an Ogg chain are read one after the other.
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
from mmcl_fast.media.readers.audio import header_sizes, mpeg_frames, ogg_links
from mmcl_fast.media.readers.audio.file_part import FilePart, make_part
from mmcl_fast.media.readers.audio.libsndfile import FileSegment, ReopenedSegment, open_soundfile
from mmcl_fast.media.readers.audio.pyav import MAX_SAMPLES_IN_MEMORY, AvRecording
from mmcl_fast.media.readers.audio.segments import Segment, locate_window, read_window
from mmcl_fast.media.source import Source, head, limit_seconds, open_binary, size_of
from mmcl_fast.media.spec import VisualSpec

MAX_FLAC_SAMPLES = 1 << 36  # a FLAC file states fewer; libsndfile reports more where the file states none


def read_audio(source: Source, spec: VisualSpec, view: View, to_end: bool = False) -> Tensor:
    """Read a recording to its log-mel image ``[1, 1, size, size]`` in 0..1.

    Args:
        source: the file.
        spec: the preparation.
        view: its ``shift`` places the window.
        to_end: decode all of it, and refuse a recording that is cut short.
    """
    wave, rate = read_wave(source, spec, view.shift, to_end)
    wave = mel.take_window(resample(wave, rate, spec.sample_rate), spec, view.shift)
    return mel.log_mel_image(wave, spec)


def read_wave(source: Source, spec: VisualSpec, shift: float | None = None, to_end: bool = False) -> tuple[Tensor, int]:
    """Read the window of a recording as the mean of its channels.

    Args:
        source: the recording.
        spec: ``seconds`` is the length of the window, ``max_seconds`` the limit of the recording.
        shift: the window's place in the recording, 0 to 1. None: the centre.
        to_end: decode all of it, and refuse a recording that is cut short.

    Returns:
        Mono float32 ``[T]``, and its rate in Hz.

    Raises:
        MediaError: the file holds no audio, is too long, damaged, or cut short.
    """
    import soundfile

    try:
        with open_soundfile(source) as file:
            plan = make_plan(source, file, to_end)
            if not plan.by_pyav and plan.parts is None:
                limit_seconds(file.frames / file.samplerate, spec)
                if not to_end and file.frames:
                    segment = FileSegment(file)
                    return segment.read(*locate_window(segment.samples, segment.rate, spec, shift)), segment.rate
    except soundfile.LibsndfileError:  # PyAV may read it
        plan = _plan_ogg(source) if head(source, 4) == b"OggS" else _plan_by_stated_size(source)
        plan = plan if plan.parts else ReadPlan(truncation=plan.truncation, by_pyav=True)
    if to_end and plan.truncation:
        raise MediaError(f"{plan.truncation}: cut short, replace it")
    parts: Sequence[Source] = [source] if plan.parts is None else plan.parts
    max_samples = MAX_SAMPLES_IN_MEMORY // len(parts)
    segments = [segment for part in parts for segment in _open_segments(part, spec, to_end, plan.by_pyav, max_samples)]
    return read_window(segments, spec, shift)


def _open_segments(
    source: Source, spec: VisualSpec, to_end: bool, by_pyav: bool, max_samples: int
) -> Sequence[Segment]:
    """Open a file or a part of one by libsndfile, or by PyAV where libsndfile cannot read it.

    Args:
        source: the file.
        spec: its ``max_seconds`` is the limit.
        to_end: decode all of it, and refuse a file that is cut short.
        by_pyav: do not try libsndfile.
        max_samples: PyAV's samples stay in memory up to this number.
    """
    import soundfile

    if not by_pyav:
        try:
            segment = ReopenedSegment(source)
            limit_seconds(segment.samples / segment.rate, spec)
            if to_end:
                segment.check()
            return [segment]
        except soundfile.LibsndfileError:
            pass
    try:
        recording = AvRecording(source, spec, to_end, max_samples)
    except MediaError:
        raise
    except Exception as error:
        with open_binary(source) as opened:
            truncation = header_sizes.find_truncation(opened)
        if truncation is None:
            raise
        raise MediaError(f"{truncation}: cut short, replace it") from error
    truncation = recording.find_truncation()
    if to_end and truncation:
        raise MediaError(f"{truncation}: cut short, replace it")
    return recording.segments()


@dataclass(frozen=True)
class ReadPlan:
    """The way to read a file.

    Attributes:
        parts: the parts to read one after the other. None: the file as it is.
        truncation: the sign that the file is cut short, for a message. None: there is none.
        by_pyav: whether PyAV must count the samples, because libsndfile does not know the file's length.
    """

    parts: list[FilePart] | None = None
    truncation: str | None = None
    by_pyav: bool = False


def make_plan(source: Source, file: Any, to_end: bool = False) -> ReadPlan:
    """Return the way to read a file that libsndfile can open.

    Args:
        source: the file.
        file: its open SoundFile.
        to_end: look for a missing end, too, which costs more.
    """
    if file.format == "MP3":
        return _plan_mpeg(source, file)
    if file.format == "OGG":
        return _plan_ogg(source)
    if file.format == "FLAC":
        return ReadPlan(by_pyav=not 0 < file.frames < MAX_FLAC_SAMPLES)
    if file.subtype.startswith("MPEG"):  # in a WAV file, where libsndfile guesses the length
        return ReadPlan(by_pyav=True)
    # libsndfile's log has "should be" or "Should be" where sizes do not fit.
    if to_end or file.frames <= 0 or "hould be" in file.extra_info:
        return _plan_by_stated_size(source)
    return ReadPlan()


def _plan_by_stated_size(source: Source) -> ReadPlan:
    """Plan a file whose header states the bytes of audio that follow, and fill in the size where it is left open."""
    with open_binary(source) as opened:
        part = header_sizes.repair_size(source, opened)
        return ReadPlan([part] if part else None, header_sizes.find_truncation(opened))


def _plan_mpeg(source: Source, file: Any) -> ReadPlan:
    """Plan an MPEG file: as it is if its header states the right number of frames, else by its counted frames."""
    with open_binary(source) as opened:
        if mpeg_frames.has_valid_lame_header(opened):
            return ReadPlan()
        opened.seek(0)
        found = mpeg_frames.find_runs(opened)
    if not found:
        return ReadPlan()
    first, truncation = found[0], mpeg_frames.find_truncation(found)
    if len(found) == 1 and first.kind.layer < 3:
        return ReadPlan(truncation=truncation, by_pyav=file.frames != first.frames * first.kind.samples)
    if any(run.kind.layer < 3 for run in found):
        return ReadPlan(truncation=truncation, by_pyav=True)
    if len(found) == 1 and mpeg_frames.is_exact(first):
        return ReadPlan(truncation=truncation)
    return ReadPlan([mpeg_frames.make_part_of_true_length(source, run) for run in found], truncation)


def _plan_ogg(source: Source) -> ReadPlan:
    """Plan an Ogg file: as it is, or link by link if it is a chain."""
    with open_binary(source) as opened:
        begins = ogg_links.find_links(opened)
        truncation = "ends inside its last page" if ogg_links.is_cut_short(opened, begins) else None
    if len(begins) < 2:
        return ReadPlan(truncation=truncation)
    ends = [*begins[1:], size_of(source)]
    return ReadPlan([make_part(source, begin, end) for begin, end in zip(begins, ends, strict=True)], truncation)
