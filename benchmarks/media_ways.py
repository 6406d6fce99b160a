"""Ways from files to batches: our loader by backend, and a PyTorch DataLoader with the usual libraries.

A maker is a function of a list of files, a spec, a number of workers and a batch size. With 0 workers, the caller's
thread reads. The maker returns a function that reads all files once. A way that cannot run raises CannotRun.

A reader, such as ``pillow``, is a function of a spec and a number of workers, and returns a function that reads one
file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.rivals import CannotRun, import_rival
from mmcl_fast.errors import ConfigError
from mmcl_fast.media import Loader, Spec, TextSpec, VisualSpec, loader

Epoch = Callable[[], None]
Maker = Callable[[list[Path], Any, int, int], Epoch]  # Any: the modality's class of spec


def our_loader(backend: str) -> Maker:
    """Return the maker of ``mmcl_fast.media.loader`` with one backend."""

    def make(paths: list[Path], spec: Spec, workers: int, batch: int) -> Epoch:
        if backend != "cpu" and spec.modality == "text":
            raise CannotRun("text is read by the cpu backend")
        items = [SimpleNamespace(modality=spec.modality, key=str(p), path=p, text=None) for p in paths]
        device = "cuda" if backend == "dali" and torch.cuda.is_available() else "cpu"
        try:
            batches = loader(items, spec, device, backend=backend, workers=workers, batch_size=batch)
        except ConfigError as error:
            raise CannotRun(str(error).splitlines()[0]) from error
        return lambda: _read_all(batches)

    return make


def _read_all(batches: Loader) -> None:
    """Go through all batches, and wait for the GPU."""
    data: Tensor | list[str] | None = None
    for _, data in batches:  # noqa: B007
        pass
    if isinstance(data, Tensor) and data.is_cuda:
        torch.cuda.synchronize()


class FileDataset(Dataset):
    """A dataset as tutorials write it: a list of paths, and a function that reads one file."""

    def __init__(self, paths: list[Path], read: Callable[[Path], object]):
        self.paths, self.read = paths, read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> object:
        return self.read(self.paths[index])


def torch_loader(reader: Callable[[Any, int], Callable[[Path], object]]) -> Maker:
    """Return the maker of a torch DataLoader with persistent workers and the default collate function."""

    def make(paths: list[Path], spec: Spec, workers: int, batch: int) -> Epoch:
        dataset = FileDataset(paths, reader(spec, workers))
        batches = DataLoader(dataset, batch, num_workers=workers, persistent_workers=workers > 0)

        def epoch() -> None:
            for _ in batches:
                pass

        return epoch

    return make


def _normalise(picture: Tensor, spec: VisualSpec) -> Tensor:
    """Subtract the spec's mean from ``[..., 3, H, W]``, and divide by its standard deviation."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (spec.mean, spec.std))
    return (picture - mean) / std


def pillow(spec: VisualSpec, workers: int) -> Callable[[Path], Tensor]:
    """Return a reader of images by Pillow, which also resizes them."""
    from PIL import Image

    def read(path: Path) -> Tensor:
        with Image.open(path) as im:
            small = im.convert("RGB").resize((spec.size, spec.size), Image.Resampling.BILINEAR)
        picture = torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous().float().div(255)
        return _normalise(picture, spec)

    return read


def torchvision(spec: VisualSpec, workers: int) -> Callable[[Path], Tensor]:
    """Return a reader of images by torchvision, which also resizes them."""
    decode_image = import_rival("torchvision.io", "decode_image")
    resize = import_rival("torchvision.transforms.v2.functional", "resize")

    def read(path: Path) -> Tensor:
        picture = resize(decode_image(str(path), mode="RGB"), [spec.size, spec.size], antialias=True)
        return _normalise(picture.float().div(255), spec)

    return read


def soundfile(spec: VisualSpec, workers: int) -> Callable[[Path], Tensor]:
    """Return a reader of audio by soundfile, with resampling and log-mel as in torchaudio's transforms.

    The reader decodes whole files, and makes its tables once.
    """
    import soundfile as sf

    from mmcl_fast.media.dsp.mel import filterbank

    bank = filterbank(spec.mels, spec.n_fft, spec.sample_rate, spec.f_min, spec.f_max or spec.sample_rate / 2)
    hann = torch.hann_window(spec.n_fft)
    kernels: dict[int, Tensor] = {}

    def resample(wave: Tensor, rate: int) -> Tensor:
        """Resample as torchaudio.transforms.Resample does: a Hann-windowed sinc of 6 zeros, one filter a phase."""
        step, phases = (r // math.gcd(rate, spec.sample_rate) for r in (rate, spec.sample_rate))
        base = min(step, phases) * 0.99  # torchaudio's default rolloff
        width = math.ceil(6 * step / base)
        if rate not in kernels:
            index = torch.arange(-width, width + step, dtype=torch.float64)[None] / step
            time = ((torch.arange(0, -phases, -1)[:, None] / phases + index) * base).clamp(-6, 6)
            window = torch.cos(time * math.pi / 12).square()
            kernels[rate] = (torch.sinc(time) * window * base / step).float()[:, None]
        padded = F.pad(wave[None, None], (width, width + step))
        out = F.conv1d(padded, kernels[rate], stride=step).transpose(1, 2).reshape(-1)
        return out[: math.ceil(phases * len(wave) / step)]

    def read(path: Path) -> Tensor:
        samples, rate = sf.read(path, dtype="float32", always_2d=True)
        wave = torch.from_numpy(samples.mean(1))
        wave = _middle_window(wave if rate == spec.sample_rate else resample(wave, rate), spec)
        spectrum = torch.stft(wave, spec.n_fft, spec.hop, window=hann, pad_mode="constant", return_complex=True)
        return _log_mel_picture(bank @ spectrum.abs().square(), spec)

    return read


def torchaudio(spec: VisualSpec, workers: int) -> Callable[[Path], Tensor]:
    """Return a reader of audio by soundfile, with torchaudio's own transforms."""
    import soundfile as sf

    resample, spectrogram = (
        import_rival("torchaudio.transforms", "Resample"),
        import_rival("torchaudio.transforms", "MelSpectrogram"),
    )
    mel = spectrogram(
        spec.sample_rate,
        spec.n_fft,
        hop_length=spec.hop,
        f_min=spec.f_min,
        f_max=spec.f_max,
        n_mels=spec.mels,
        pad_mode="constant",
    )
    resamplers: dict[int, Callable[[Tensor], Tensor]] = {}

    def read(path: Path) -> Tensor:
        samples, rate = sf.read(path, dtype="float32", always_2d=True)
        if rate not in resamplers:
            resamplers[rate] = resample(rate, spec.sample_rate)
        wave = _middle_window(resamplers[rate](torch.from_numpy(samples.mean(1))), spec)
        return _log_mel_picture(mel(wave), spec)

    return read


def _middle_window(wave: Tensor, spec: VisualSpec) -> Tensor:
    """Return the middle ``spec.seconds`` of a wave, with zeros behind a shorter one."""
    length = round(spec.seconds * spec.sample_rate)
    start = max(0, (len(wave) - length) // 2)
    wave = wave[start : start + length]
    return F.pad(wave, (0, length - len(wave)))


def _log_mel_picture(power: Tensor, spec: VisualSpec) -> Tensor:
    """Return the log-mel picture ``[3, size, size]`` of mel power ``[mels, time]``.

    The maximum is 1, ``db_range`` decibels below it and less are 0. Low frequencies are at the bottom.
    """
    level = 10 * torch.log10(power.clamp(min=1e-10))  # the same floor as torchaudio's AmplitudeToDB
    level = (level - level.max()).clamp(min=-spec.db_range) / spec.db_range + 1
    picture = F.interpolate(level.flip(0)[None, None], size=(spec.size, spec.size), mode="bilinear", antialias=True)
    return _normalise(picture[0].expand(3, -1, -1), spec)


def pyav(spec: VisualSpec, workers: int) -> Callable[[Path], Tensor]:
    """Return a reader of video by PyAV, which decodes all frames to arrays and picks the spec's frames."""
    import av

    def read(path: Path) -> Tensor:
        with av.open(str(path)) as container:
            if not workers:
                container.streams.video[0].thread_count = 1  # the measurement is of one thread
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        # The middle frames of equal segments, which our reader takes too.
        picked = [frames[int((i + 0.5) * len(frames) / spec.frames)] for i in range(spec.frames)]
        return _resize_frames(torch.from_numpy(np.stack(picked)).permute(0, 3, 1, 2), spec)

    return read


def decord(spec: VisualSpec, workers: int) -> Callable[[Path], Tensor]:
    """Return a reader of video by decord, which decodes the spec's frames."""
    reader = import_rival("decord", "VideoReader")

    def read(path: Path) -> Tensor:
        video = reader(str(path), num_threads=0 if workers else 1)
        picked = [int((i + 0.5) * len(video) / spec.frames) for i in range(spec.frames)]
        return _resize_frames(torch.from_numpy(video.get_batch(picked).asnumpy()).permute(0, 3, 1, 2), spec)

    return read


def torchcodec(spec: VisualSpec, workers: int) -> Callable[[Path], Tensor]:
    """Return a reader of video by torchcodec, which decodes the spec's frames."""
    decoder = import_rival("torchcodec.decoders", "VideoDecoder")

    def read(path: Path) -> Tensor:
        video = decoder(str(path), num_ffmpeg_threads=0 if workers else 1)
        picked = [int((i + 0.5) * len(video) / spec.frames) for i in range(spec.frames)]
        return _resize_frames(video.get_frames_at(picked).data, spec)

    return read


def _resize_frames(frames: Tensor, spec: VisualSpec) -> Tensor:
    """Resize and normalise uint8 frames ``[T, 3, H, W]``."""
    small = F.interpolate(frames.float().div(255), size=(spec.size, spec.size), mode="bilinear", antialias=True)
    return _normalise(small, spec)


def depth(spec: VisualSpec, workers: int) -> Callable[[Path], Tensor]:
    """Return a reader of depth maps by Pillow: inverse depth, scaled so that its 1 % and 99 % quantiles are 0 and 1."""
    from PIL import Image

    def read(path: Path) -> Tensor:
        with Image.open(path) as im:
            metres = torch.from_numpy(np.array(im).astype(np.float32)) / spec.depth_scale
        valid = metres > 0
        inverse = torch.where(valid, 1 / metres, 0.0)
        low, high = torch.quantile(inverse[valid], torch.tensor([0.01, 0.99]))
        level = torch.where(valid, ((inverse - low) / (high - low)).clamp(0, 1), 0.0)
        picture = F.interpolate(level[None, None], size=(spec.size, spec.size), mode="bilinear", antialias=True)
        return _normalise(picture[0].expand(3, -1, -1), spec)

    return read


def text(spec: TextSpec, workers: int) -> Callable[[Path], str]:
    """Return a reader of text files."""
    return lambda path: path.read_text(encoding="utf-8").strip()[: spec.max_chars]


# The table's ratios are relative to the first loader of each modality.
TORCH_LOADERS: dict[str, dict[str, Maker]] = {
    "image": {"DataLoader + Pillow": torch_loader(pillow), "DataLoader + torchvision": torch_loader(torchvision)},
    "audio": {"DataLoader + soundfile": torch_loader(soundfile), "DataLoader + torchaudio": torch_loader(torchaudio)},
    "video": {
        "DataLoader + PyAV": torch_loader(pyav),
        "DataLoader + decord": torch_loader(decord),
        "DataLoader + torchcodec": torch_loader(torchcodec),
    },
    "depth": {"DataLoader + Pillow": torch_loader(depth)},
    "text": {"DataLoader + read_text": torch_loader(text)},
}


def ways(modality: str) -> dict[str, Maker]:
    """Return the makers of all ways to read a modality, by name."""
    return {"cpu": our_loader("cpu"), "dali": our_loader("dali"), **TORCH_LOADERS[modality]}
