"""Finished runs with everything that a report shows: learned from real files of five modalities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mmcl_fast.config import build_config
from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.learning import learner
from mmcl_fast.media.spec import VisualSpec
from mmcl_fast.runs import report_samples as sampling
from mmcl_fast.runs import train as run
from tests.media.files import counting_video, tone
from tests.toy import ToyEncoder, write_folder

ORDER = ["video", "image", "audio", "text", "depth"]
OPTIONS = {"comm": {"prompts": False, "steps": 20, "sampled_features": 64}, "finetune": {"epochs": 8, "batch_size": 4}}


class Encoded(ToyEncoder):
    """Its videos have four frames."""

    def spec(self, modality):
        return VisualSpec("video", size=32, frames=4) if modality == "video" else super().spec(modality)

    def trunk(self, batch, modality):
        if modality != "video":
            return super().trunk(batch, modality)
        frames = [super(Encoded, self).trunk(batch[:, f : f + 1], modality) for f in range(batch.shape[1])]
        return Tokens(torch.cat([f.tokens for f in frames], 1), torch.stack([f.query for f in frames]).mean(0))


def write_files(root: Path) -> Path:
    """Four classes each of image, depth and text, two each of audio and video, four test files a class."""
    write_folder(root)
    for split, some in (("train", range(6)), ("test", range(6, 10))):
        for c in range(2):
            sound, clip = (root / m / split / f"{m}_{c}" for m in ("audio", "video"))
            sound.mkdir(parents=True)
            clip.mkdir(parents=True)
            for i in some:
                wave = tone(300 * (1 + 3 * c) + 5 * i, 16000, 0.5)
                noise = np.random.default_rng(i).normal(0, 0.01, len(wave))
                soundfile.write(sound / f"{i}.wav", wave + noise, 16000)
                counting_video(clip / f"{i}.mp4", frames=8 + i, size=32 + 32 * c)
    return root


def learn(folder: Path, method: str) -> Path:
    """A run of ``method`` in ``folder / method`` on the files of ``folder / data``, with its samples."""
    config = build_config(
        {
            "stream": {
                "source": "folder",
                "path": str(folder / "data"),
                "classes_per_task": 2,
                "modalities": ORDER,
                "order": "interleaved",
            },
            "method": {"name": method, "options": OPTIONS.get(method, {})},
            "train": {"device": "cpu", "cache": str(folder / "cache")},
        }
    )
    encoder: Encoder = Encoded()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "load_encoder", lambda name, **options: encoder)
        result = run.train(config, folder / method)
    sampling.write(folder / method, result.learner, result.stream, result.summary)
    return folder / method
