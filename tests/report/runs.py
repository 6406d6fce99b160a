"""Learn runs from real files of five modalities that have everything a report shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mmcl_fast import runs
from mmcl_fast.config import build_config
from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.learning import learner
from mmcl_fast.media.spec import VisualSpec
from mmcl_fast.runs import report_samples
from tests.media.files import counting_video, tone
from tests.toy import ToyEncoder, write_folder

ORDER = ["video", "image", "audio", "text", "depth"]
OPTIONS = {
    "comm": {"prompts": False, "realignment": "trained", "steps": 20, "sampled_features": 64},
    "finetune": {"epochs": 8, "batch_size": 4},
}


class FourFrameEncoder(ToyEncoder):
    """A toy encoder whose videos have four frames."""

    def spec(self, modality):
        return VisualSpec("video", size=32, frames=4) if modality == "video" else super().spec(modality)

    def trunk(self, batch, modality):
        if modality != "video":
            return super().trunk(batch, modality)
        frames = [super(FourFrameEncoder, self).trunk(batch[:, f : f + 1], modality) for f in range(batch.shape[1])]
        return Tokens(torch.cat([f.tokens for f in frames], 1), torch.stack([f.query for f in frames]).mean(0))


def write_files(root: Path) -> Path:
    """Write four classes each of image, depth and text, and two each of audio and video; four test files a class."""
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
    """Learn ``folder / data`` into the run folder ``folder / method``, with samples for the report; return the run."""
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
    encoder: Encoder = FourFrameEncoder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "load_encoder", lambda name, **options: encoder)
        result = runs.learn_stream(config, folder / method)
    report_samples.write_report_samples(folder / method, result.learner, result.stream, result.summary)
    return folder / method
