"""Data of `bench train`: media files from a seed, and a CLIP of a standard size with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.media_files import draw_picture
from mmcl_fast.streams import Stream

RATE = 16000  # Hz, the encoder's own: readers resample with different filters, which would change the results
SIZES = {  # width, layers, heads of the vision tower and of the text tower; D; pixels; patch
    "vit-b16": ((768, 12, 12), (512, 12, 8), 512, 224, 16),
    "clip-small": ((128, 4, 4), (64, 2, 2), 64, 64, 16),
}


def make_stream(data: str, classes_per_task: int, seed: int) -> Stream:
    """Return the demo's stream for "demo", otherwise the stream of a folder, with tasks in random order."""
    options: dict[str, Any] = {"classes_per_task": classes_per_task, "order": "random", "seed": seed}
    return Stream.demo(**options) if data == "demo" else Stream.from_folder(data, **options)


def write_media(root: Path, *, classes: int, train: int, test: int, small: bool = False) -> Path:
    """Write ``root/{image,audio}/{train,test}/<class>``: JPEGs of 500 x 375 and WAVs of 5 to 7 s at 16 kHz.

    An image class is stripes of one direction, pitch and colour over a picture of natural statistics. An audio class is
    a chord under noise. Each file has stripes or chord of its own strength, some next to nothing.

    Args:
        root: the folder to write.
        classes: number of classes of each modality.
        train, test: number of files of each class.
        small: 96 x 72 pixels and 5 s, for a test.
    """
    import soundfile
    from PIL import Image

    rng = np.random.default_rng(0)
    width, height = (96, 72) if small else (500, 375)
    backgrounds = [draw_picture(rng, height, width) for _ in range(24)]
    for c in range(classes):
        turn, pitch = np.pi * rng.uniform(), rng.uniform(6, 30)
        colour, chord = rng.uniform(-1, 1, 3), 110 * 2 ** (rng.choice(36, 3, replace=False) / 12)
        for split, count in (("train", train), ("test", test)):
            pictures, sounds = (root / kind / split / f"class_{c}" for kind in ("image", "audio"))
            pictures.mkdir(parents=True)
            sounds.mkdir(parents=True)
            for i in range(count):
                stripes = _stripes(height, width, turn + rng.normal(0, 0.1), pitch * rng.uniform(0.9, 1.1))
                shifted = np.roll(backgrounds[rng.integers(len(backgrounds))], rng.integers(height, size=2), (0, 1))
                mixed = shifted[:, :: rng.choice((-1, 1))] + rng.uniform(2, 60) * stripes[..., None] * colour
                Image.fromarray(mixed.clip(0, 255).astype(np.uint8)).save(pictures / f"{i}.jpg", quality=85)
                wave = _chord(rng, chord, RATE, 5.0 if small else rng.uniform(5, 7))
                soundfile.write(sounds / f"{i}.wav", wave, RATE)
    return root


def _stripes(height: int, width: int, turn: float, pitch: float) -> np.ndarray:
    """Return ``[height, width]`` in -1..1: stripes in direction ``turn`` (radians), ``pitch`` over the height."""
    y, x = np.mgrid[:height, :width] / height
    return np.sin(2 * np.pi * pitch * (np.cos(turn) * x + np.sin(turn) * y))


def _chord(rng: np.random.Generator, chord: np.ndarray, rate: int, seconds: float) -> np.ndarray:
    """Return a wave ``[rate * seconds]`` of noise and of the tones ``chord`` (Hz), a little out of tune."""
    time = np.arange(int(rate * seconds)) / rate
    wave = rng.normal(0, 1, len(time)).astype(np.float32)
    strength = rng.uniform(0.01, 0.3)
    for pitch in chord * 2 ** (rng.normal(0, 0.3) / 12):
        wave += strength * np.sin(2 * np.pi * pitch * time + rng.uniform(0, 6)).astype(np.float32)
    return 0.1 * wave


def write_clip(folder: Path, size: str) -> Path:
    """Write a CLIP with random weights in Hugging Face's format, and return its folder. Needs transformers.

    Args:
        folder: the folder to write.
        size: one of SIZES.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    vision, text, dim, pixels, patch = SIZES[size]
    # CLIP's vocabulary without merges: each byte is a token, and a second token at the end of a word.
    symbols = sorted(ByteLevel.alphabet())
    names = [*symbols, *(s + "</w>" for s in symbols), "<|startoftext|>", "<|endoftext|>"]
    end = len(names) - 1

    def tower_config(width: int, layers: int, heads: int) -> dict[str, int]:
        return {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
        }

    vocab = {name: i for i, name in enumerate(names)}
    CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):  # the seed is for the weights alone
        torch.manual_seed(0)
        model = CLIPModel(
            CLIPConfig(
                projection_dim=dim,
                vision_config={**tower_config(*vision), "image_size": pixels, "patch_size": patch},
                text_config={
                    **tower_config(*text),
                    "max_position_embeddings": 77,
                    "vocab_size": len(names),
                    "bos_token_id": end - 1,
                    "eos_token_id": end,
                    "pad_token_id": end,
                },
            )
        )
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "CLIPImageProcessor",
                "size": {"height": pixels, "width": pixels},
                "resample": 2,
                "do_center_crop": False,
                "do_normalize": True,
                "image_mean": [0.5] * 3,
                "image_std": [0.5] * 3,
            }
        )
    )
    return folder
