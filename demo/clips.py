"""Cut notes, and write audio and video files so that the same input gives the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np


def load_note(path: Path, rate: int) -> np.ndarray:
    """Decode one note to mono float32 at ``rate`` Hz. It begins 10 ms before the onset, and its peak is 0.9."""
    import soundfile
    from scipy.signal import resample_poly

    wave, sr = soundfile.read(path, dtype="float64", always_2d=True)
    wave = resample_poly(wave.mean(1), rate, sr)
    peak = np.abs(wave).max()
    onset = int(np.argmax(np.abs(wave) > 0.02 * peak))
    return (0.9 / peak * wave[max(0, onset - rate // 100) :]).astype(np.float32)


def windows(wave: np.ndarray, rate: int, many: int, seconds: float) -> list[np.ndarray]:
    """Return at most ``many`` windows of ``seconds``, 0.5 s apart, while the note still sounds. Each fades out."""
    size, out = int(seconds * rate), []
    for k in range(many):
        part = wave[int(k * 0.5 * rate) :][:size]
        if k and (len(part) < size // 2 or np.sqrt(np.mean(part**2)) < 0.02):
            break
        part = part.copy()
        fade = min(len(part), rate // 50)
        part[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
        out.append(part)
    return out


def set_ogg_serial(data: bytes, serial: int) -> bytes:
    """Replace the random serial of an Ogg file's stream, and renew the pages' checksums (RFC 3533, section 6)."""
    out, at = bytearray(data), 0
    while at < len(out):
        end = at + 27 + out[at + 26] + sum(out[at + 27 : at + 27 + out[at + 26]])
        out[at + 14 : at + 18] = serial.to_bytes(4, "little")
        out[at + 22 : at + 26] = bytes(4)
        crc = 0
        for byte in out[at:end]:
            crc ^= byte << 24
            for _ in range(8):
                crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
        out[at + 22 : at + 26] = crc.to_bytes(4, "little")
        at = end
    return bytes(out)


def write_audio(path: Path, wave: np.ndarray, rate: int) -> None:
    """Write a mono wave ``[n]`` in the format of the path's ending. The same samples give the same bytes.

    Endings: .wav and .flac (16 bits), .ogg (Vorbis), .opus (Opus in Ogg) and .mp3.
    """
    import av
    import soundfile

    if path.suffix in (".wav", ".flac"):
        soundfile.write(path, wave, rate, subtype="PCM_16")
        return
    if path.suffix == ".ogg":
        soundfile.write(path, wave, rate, format="OGG", subtype="VORBIS")
        path.write_bytes(set_ogg_serial(path.read_bytes(), 1))
        return
    codec = {".opus": "libopus", ".mp3": "libmp3lame"}[path.suffix]
    with av.open(
        str(path), "w", format={".opus": "ogg"}.get(path.suffix, path.suffix[1:]), options={"fflags": "+bitexact"}
    ) as out:
        stream = cast(av.AudioStream, out.add_stream(codec, rate=rate, layout="mono"))
        stream.bit_rate = 40_000 if path.suffix == ".opus" else 56_000
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(
            format=stream.codec_context.format or "fltp",
            layout="mono",
            rate=rate,
            frame_size=stream.codec_context.frame_size or 1024,
        )
        for part in resampler.resample(frame) + resampler.resample(None):
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))


def write_video(path: Path, frames: list[np.ndarray], fps: int) -> None:
    """Encode uint8 RGB frames ``[H, W, 3]`` as H.264 (.mp4) or VP9 (.webm). The same frames give the same bytes."""
    import av

    mp4 = path.suffix == ".mp4"
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as out:
        stream = out.add_stream("libx264" if mp4 else "libvpx-vp9", rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # with several threads, the bytes may differ
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        stream.options = (
            # With weighted prediction and the macroblock tree the bytes differed from run to run.
            {"crf": "27", "preset": "slow", "x264-params": "weightp=0:mbtree=0"}
            if mp4
            else {"crf": "38", "b": "0", "cpu-used": "4"}
        )
        for array in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        out.mux(stream.encode(None))
