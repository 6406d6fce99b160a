"""Recordings that tests write in many containers, codecs and headers, and their decoding by FFmpeg for comparison."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
import soundfile

from mmcl_fast.media import VisualSpec
from mmcl_fast.media.readers.audio.audio import read_wave

RATE = 16000
SAMPLES = 16000
ALL = VisualSpec(modality="audio", seconds=1000.0)  # the window is the whole recording


def sweep(samples: int = SAMPLES, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Return a rising tone over a little noise, float32 ``[samples]``. No two moments of it are alike."""
    time = np.arange(samples) / rate
    noise = np.random.default_rng(seed).standard_normal(samples)
    return (0.4 * np.sin(2 * np.pi * (300 + 900 * time) * time) + 0.01 * noise).astype(np.float32)


def write_by_soundfile(
    kind: str, subtype: str | None = None, rate: int = RATE, channels: int = 1, **more: Any
) -> bytes:
    """Write ``wave`` by libsndfile to each channel; the second one is weaker."""
    wave = more.pop("wave", None)
    wave = sweep() if wave is None else wave
    data = io.BytesIO()
    loudness = np.linspace(1, 0.5, channels, dtype=np.float32)
    soundfile.write(data, wave[:, None] * loudness, rate, format=kind, subtype=subtype, **more)
    return data.getvalue()


class _Pipe:
    """A file that cannot seek."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> int:
        self.data += data
        return len(data)


def encode_by_ffmpeg(
    kind: str,
    codec: str,
    rate: int = RATE,
    layout: str = "mono",
    pipe: bool = False,
    mux: dict[str, str] | None = None,
    **codec_options: str,
) -> bytes:
    """Encode one second of the sweep by FFmpeg; ``pipe``: as a writer leaves it that cannot seek back."""
    out: Any = _Pipe() if pipe else io.BytesIO()
    with av.open(out, "w", format=kind, options=mux or {}) as container:
        track = cast(av.AudioStream, container.add_stream(codec, rate=rate, layout=layout, options=codec_options))
        wave = np.repeat(sweep(rate, rate)[None], track.codec_context.channels, 0)
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        container.start_encoding()
        size = track.codec_context.frame_size or 0
        resampler = av.AudioResampler(format=track.format, rate=rate, layout=layout, frame_size=size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(track.encode(part))
        container.mux(track.encode(None))
    return bytes(out.data) if pipe else out.getvalue()


def copy_with_cover(data: bytes, kind: str, cover: bytes = b"", **mux: str) -> bytes:
    """Copy the packets of a file to another container, with a JPEG as its cover."""
    out = io.BytesIO()
    with av.open(io.BytesIO(data), "r") as source, av.open(out, "w", format=kind, options=mux) as target:
        track = source.streams.audio[0]
        copy = target.add_stream_from_template(track)
        if cover:
            with av.open(io.BytesIO(cover), "r") as picture:
                attached = target.add_stream_from_template(picture.streams.video[0])
                attached.disposition = av.stream.Disposition.attached_pic
                for image in picture.demux(picture.streams.video[0]):
                    if image.dts is not None:
                        image.stream = attached
                        target.mux(image)
        for packet in source.demux(track):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    return out.getvalue()


def decode_by_ffmpeg(data: bytes) -> tuple[np.ndarray, int]:
    """Decode a whole file by FFmpeg. Return the channels' mean, float32 ``[T]``, and the rate in Hz."""
    with av.open(io.BytesIO(data), "r") as container:
        track = container.streams.audio[0]
        resampler = av.AudioResampler(format="fltp")
        blocks = [part.to_ndarray().mean(0) for frame in container.decode(track) for part in resampler.resample(frame)]
        return np.concatenate(blocks), track.rate


def read_all(data: Any) -> tuple[np.ndarray, int]:
    """Return all samples that ``read_wave`` reads, and their rate."""
    wave, rate = read_wave(data, ALL)
    return wave.numpy(), rate
