"""Recordings that the tests write, in containers, codecs and headers of many kinds, and what ffmpeg makes of them."""

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
ALL = VisualSpec(modality="audio", seconds=1000.0)  # the window is all of it


def sweep(samples: int = SAMPLES, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """A tone that rises, over a little noise: no two moments of it are alike. float32 ``[samples]``."""
    time = np.arange(samples) / rate
    noise = np.random.default_rng(seed).standard_normal(samples)
    return (0.4 * np.sin(2 * np.pi * (300 + 900 * time) * time) + 0.01 * noise).astype(np.float32)


def by_soundfile(kind: str, subtype: str | None = None, rate: int = RATE, channels: int = 1, **more: Any) -> bytes:
    """A file of libsndfile; ``wave`` is what it holds in each channel, the second one weaker."""
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


def by_av(
    kind: str,
    codec: str,
    rate: int = RATE,
    layout: str = "mono",
    pipe: bool = False,
    mux: dict[str, str] | None = None,
    **codec_options: str,
) -> bytes:
    """One second of the sweep by an encoder of ffmpeg; ``pipe``: as its writer leaves it that cannot seek back."""
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


def remuxed(data: bytes, kind: str, cover: bytes = b"", **mux: str) -> bytes:
    """The packets of a file in another container, with a JPEG as its cover."""
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


def by_ffmpeg(data: bytes) -> tuple[np.ndarray, int]:
    """A plain full decode: the channels' mean, float32 ``[T]``, and the rate in Hz."""
    with av.open(io.BytesIO(data), "r") as container:
        track = container.streams.audio[0]
        resampler = av.AudioResampler(format="fltp")
        blocks = [part.to_ndarray().mean(0) for frame in container.decode(track) for part in resampler.resample(frame)]
        return np.concatenate(blocks), track.rate


def ours(data: Any) -> tuple[np.ndarray, int]:
    """All that ``read_wave`` reads, and its rate."""
    wave, rate = read_wave(data, ALL)
    return wave.numpy(), rate
