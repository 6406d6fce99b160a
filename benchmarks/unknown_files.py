"""Files that belong to no class of the demo: blank ones, noise, and content of another modality.

The files follow from a seed and from demo files of one split. They are written to a folder, so that they go through
the same decoders as all others. ``write_files`` makes them for every modality, ``embed`` embeds them and the demo.
"""

from __future__ import annotations

import random
import string
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.media_files import noise_field
from mmcl_fast import Learner
from mmcl_fast.streams.sample import Sample
from mmcl_fast.streams.sources.demo import find_demo
from mmcl_fast.streams.sources.manifest import read_manifest

KINDS = ("blank", "noise", "foreign")
COUNT = 16  # files of each kind and modality
RATE = 22_050
BLANK_TEXTS = ["a", ".", "-", "0", "the", "of", "?", "x", "1", "...", "and", "#", "I", "to", "it", "!"]
FOREIGN_TEXTS = [  # half for each split
    "Der Zug nach Hamburg fährt heute von Gleis sieben ab und hat zehn Minuten Verspätung.",
    "Veuillez signer le contrat et le renvoyer avant la fin du mois.",
    "Пожалуйста, закройте дверь и выключите свет перед уходом.",
    "明日の会議は午後三時から始まります。",
    "La reunión se aplazó hasta el jueves porque faltaban los documentos.",
    "كم يستغرق الطريق من المحطة إلى الفندق؟",
    "for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; }",
    "SELECT name, count(*) FROM orders WHERE paid = 0 GROUP BY name ORDER BY 2 DESC;",
    "def main(argv=None): return sys.exit(run(parse_args(argv)))",
    '{"id": 4711, "status": "open", "tags": ["a", "b"], "ratio": 0.25}',
    "<div class='row'><a href='/login'>Sign in</a></div>",
    "2024-03-07 12:41:09 ERROR worker 3: connection refused (111), retry in 5 s",
    "+49 30 1234567, 10115 Berlin, Invoice No. 2024/0815, total 119.00 EUR",
    "$ git rebase -i HEAD~3 && make -j8 test | tee build.log",
    "x^2 + 2xy + y^2 = (x + y)^2; a/b = c/d <=> ad = bc",
    "aGVsbG8gd29ybGQsIHRoaXMgaXMgYSBsb25nIGxpbmU=",
    "Il treno per Milano parte dal binario quattro alle nove e un quarto.",
    "Prosimy o przesłanie podpisanej umowy do piątku.",
    "请在离开办公室之前关灯并锁门。",
    "회의는 내일 오전 열 시에 시작합니다.",
    "Onde fica a estação de metro mais próxima do hotel?",
    "Η συνάντηση αναβλήθηκε για την επόμενη εβδομάδα.",
    "while (p != NULL) { free(p->data); p = p->next; }",
    "UPDATE users SET last_login = now() WHERE id = 42 RETURNING *;",
    "import numpy as np; x = np.linalg.solve(A, b)",
    "[server]\nport = 8080\nhost = 0.0.0.0\nworkers = 4",
    "<html><head><title>404 Not Found</title></head></html>",
    "[  12.345678] usb 1-1: new high-speed USB device number 4 using xhci_hcd",
    "IBAN DE89 3704 0044 0532 0130 00, BIC COBADEFFXXX, due 31/12/2025",
    "docker run --rm -it -v $PWD:/src python:3.11 bash -c 'pip install .'",
    "sin(2t) = 2 sin(t) cos(t), and the integral of 1/x is ln|x| + C",
    "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
]


def scanned(text: str, side: int = 224) -> np.ndarray:
    """Return a white page with a text, uint8 ``[side, side]``."""
    from PIL import Image, ImageDraw

    page = Image.new("L", (side, side), 255)
    words, lines = text.split(), [""]
    for word in words:
        lines[-1:] = [f"{lines[-1]} {word}".strip()] if len(lines[-1]) + len(word) < 30 else [lines[-1], word]
    ImageDraw.Draw(page).multiline_text((8, 8), "\n".join(lines * 3), fill=0, spacing=6)
    return np.asarray(page)


def spectrogram(path: Path, side: int = 224) -> np.ndarray:
    """Return the picture of a recording's log spectrum, uint8 ``[side, side]``."""
    import av

    with av.open(str(path)) as container:
        wave = np.concatenate([f.to_ndarray().reshape(-1) for f in container.decode(audio=0)]).astype(np.float64)
    frames = np.lib.stride_tricks.sliding_window_view(wave, 512)[:: max(1, len(wave) // side)][:side]
    power = np.log(np.abs(np.fft.rfft(frames * np.hanning(512)))[:, :side].T[::-1] + 1e-3)
    return ((power - power.min()) / max(float(np.ptp(power)), 1e-9) * 255).astype(np.uint8)


def depth_picture(path: Path) -> np.ndarray:
    """Return a depth map as a grey picture, uint8 ``[h, w]``."""
    from PIL import Image

    depth = np.asarray(Image.open(path)).astype(float)
    return (255 * (1 - depth / max(depth.max(), 1))).astype(np.uint8)


def photograph(path: Path, side: int = 224) -> np.ndarray:
    """Return a photograph, uint8 ``[side, side, 3]``."""
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB").resize((side, side)))


def first_frame(path: Path) -> np.ndarray:
    """Return the first picture of a video, uint8 ``[h, w, 3]``."""
    import av

    with av.open(str(path)) as container:
        return np.asarray(next(container.decode(video=0)).to_ndarray(format="rgb24"))


def pictures_of(others: Sequence[str], files: dict[str, list[Any]]) -> Iterator[np.ndarray]:
    """Yield pictures of other modalities' files in turn."""
    readers: dict[str, Callable[[Any], np.ndarray]] = {
        "image": photograph,
        "video": first_frame,
        "audio": spectrogram,
        "depth": depth_picture,
        "text": scanned,
    }
    for number in range(COUNT):
        name = others[number % len(others)]
        yield readers[name](files[name][number // len(others)])


def pictures(kind: str, modality: str, rng: np.random.Generator, files: dict[str, list[Any]]) -> Iterator[np.ndarray]:
    """Yield ``COUNT`` pictures for a visual modality, uint8 ``[h, w]`` or ``[h, w, 3]``."""
    if kind == "foreign":
        yield from pictures_of([m for m in ("image", "video", "audio", "depth", "text") if m != modality], files)
        return
    for number in range(COUNT):
        side = (1, 16, 160, 224)[number % 4]
        if kind == "blank":
            yield np.broadcast_to(rng.integers(0, 256, 3 if number % 2 else 1), (side, side, 3)).astype(np.uint8)
        elif number % 4 == 3:  # noise with the spectrum of photographs
            yield np.stack([noise_field(rng, 224, 224) * 255 for _ in range(3)], -1).astype(np.uint8)
        else:
            yield rng.integers(0, 256, (max(side, 16), max(side, 16), 3), dtype=np.uint8)


def write_picture(path: Path, picture: np.ndarray) -> Path:
    """Write a picture as PNG."""
    from PIL import Image

    path = path.with_suffix(".png")
    Image.fromarray(picture).save(path)
    return path


def write_depth(path: Path, picture: np.ndarray) -> Path:
    """Write the grey of a picture as depths from 0.5 m to 3.05 m."""
    from PIL import Image

    grey = picture if picture.ndim == 2 else picture.mean(-1)
    path = path.with_suffix(".png")
    Image.fromarray((500 + 10 * grey.astype(float)).astype(np.uint16)).save(path)
    return path


def write_clip(path: Path, frames: Sequence[np.ndarray]) -> Path:
    """Write frames uint8 as an H.264 clip of 144 px and two seconds."""
    import av
    from PIL import Image

    path = path.with_suffix(".mp4")
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10, options={"crf": "20"})
        stream.width = stream.height = 144
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            picture = np.asarray(Image.fromarray(frame).convert("RGB").resize((144, 144), 0))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def sounds(kind: str, rng: np.random.Generator, files: dict[str, list[Any]]) -> Iterator[np.ndarray]:
    """Yield ``COUNT`` recordings, float ``[n]`` in -1..1: silence and hum, noise, or other media read as samples."""
    length = int(2.5 * RATE)
    time = np.arange(length) / RATE
    foreign = pictures_of(["image", "depth", "text", "video"], files) if kind == "foreign" else iter(())
    for number in range(COUNT):
        if kind == "blank":  # silence, a constant, a faint hum, a click
            wave = np.full(length, 0.3 * (number % 4 == 1))
            wave += 0.002 * np.sin(2 * np.pi * rng.uniform(45, 65) * time) * (number % 4 == 2)
            wave[rng.integers(length)] += 0.5 * (number % 4 == 3)
        elif kind == "noise":
            spectrum = np.fft.rfft(rng.standard_normal(length)) / np.arange(1, length // 2 + 2) ** (number % 4 / 4)
            wave = np.fft.irfft(spectrum, length)
            wave = 0.5 * wave / np.abs(wave).max()
        else:  # the rows of a picture, one after another
            picture = next(foreign)
            row = (picture if picture.ndim == 2 else picture.mean(-1)).astype(float).reshape(-1)
            wave = np.resize(row / 127.5 - 1, length)
        yield wave


def texts(kind: str, rng: random.Random, half: int) -> list[str]:
    """Return ``COUNT`` texts. ``half``: which half of the foreign ones, 0 or 1."""
    if kind == "blank":
        return BLANK_TEXTS[:COUNT]
    if kind == "foreign":
        return FOREIGN_TEXTS[half * COUNT :][:COUNT]
    return ["".join(rng.choices(string.printable[:94] + "   ", k=rng.randint(8, 120))) for _ in range(COUNT)]


def write_files(folder: Path, demo: Sequence[Sample], split: str, seed: int) -> list[Sample]:
    """Write all files, and return them as samples with the kind as label.

    Args:
        folder: an empty folder.
        demo: the demo's samples.
        split: of the demo's files that give foreign content.
        seed: of everything random.
    """
    files: dict[str, list[Any]] = {}
    for sample in demo:
        if sample.split == split and (sample.path or sample.text):
            content = Path(str(sample.path)).read_text() if sample.modality == "text" else sample.path
            files.setdefault(sample.modality, []).append(content)
    for name, found in files.items():
        random.Random(f"{seed}/{name}").shuffle(found)
    out = []
    for kind in KINDS:
        rng = np.random.default_rng([seed, KINDS.index(kind)])
        for number, text in enumerate(texts(kind, random.Random(seed), seed % 2)):
            out.append(Sample("text", kind, None, text, split, f"{split}/{kind}/text/{number}"))
        written = [
            ("image", write_picture(folder / f"{kind}-image-{i}", p))
            for i, p in enumerate(pictures(kind, "image", rng, files))
        ]
        written += [
            ("depth", write_depth(folder / f"{kind}-depth-{i}", p))
            for i, p in enumerate(pictures(kind, "depth", rng, files))
        ]
        for i, picture in enumerate(pictures(kind, "video", rng, files)):
            frames = [picture] * 20
            if kind == "noise":
                frames = (
                    [np.roll(picture, 7 * k, 0) for k in range(20)]
                    if i % 2
                    else [rng.permutation(picture) for _ in range(20)]
                )
            written.append(("video", write_clip(folder / f"{kind}-video-{i}", frames)))
        for i, wave in enumerate(sounds(kind, rng, files)):
            import soundfile

            path = folder / f"{kind}-audio-{i}.wav"
            soundfile.write(path, wave, RATE)
            written.append(("audio", path))
        out += [Sample(m, kind, path, None, split, f"{split}/{path.name}") for m, path in written]
    return out


@dataclass
class Rows:
    """All samples of a modality.

    Attributes:
        z, q: unit rows ``[n, D]`` and ``[n, Dq]`` float64, q without the other tower's coordinates.
        label, split, group: ``[n]`` of str; the label of a made file is its kind.
        made: ``[n]`` bool, files of ``unknown_files``.
    """

    z: Tensor
    q: Tensor
    label: np.ndarray
    split: np.ndarray
    group: np.ndarray
    made: np.ndarray

    def features(self, name: str) -> Tensor:
        """Return z, q or u = [z ; q]."""
        return {"z": self.z, "q": self.q, "u": torch.cat([self.z, self.q], 1)}[name]


def embed(cache: str) -> dict[str, Rows]:
    """Embed the demo and the made files by the bare head."""
    demo = read_manifest(find_demo(None), None)["samples"]
    learner, out = Learner("embedded", "ncm", device="cpu", cache_dir=cache), {}
    with tempfile.TemporaryDirectory() as folder:
        made = []
        for seed, split in enumerate(("train", "test")):
            (Path(folder) / split).mkdir()
            made += write_files(Path(folder) / split, demo, split, seed)
        for modality in dict.fromkeys(sample.modality for sample in demo):
            samples = [s for s in (*demo, *made) if s.modality == modality]
            z, q = [], []
            for start in range(0, len(samples), 64):
                tokens = learner.tokens(samples[start : start + 64], modality)
                with torch.no_grad():
                    z.append(learner.encoder.head(tokens, None, modality))
                q.append(tokens.query)
            query = torch.cat(q).double()
            first = slice(1280, None) if modality == "text" else slice(1280)
            label, splits, group = (np.array([getattr(s, f) for s in samples]) for f in ("label", "split", "group"))
            embedded = F.normalize(torch.cat(z).double(), dim=1), F.normalize(query[:, first], dim=1)
            out[modality] = Rows(*embedded, label, splits, group, np.isin(label, KINDS))
    return out
