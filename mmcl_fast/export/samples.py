"""Inputs to hold a graph to the learner with, and the holding."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.export.graph import Predictor
from mmcl_fast.learning import Learner
from mmcl_fast.media import TextSpec, loader
from mmcl_fast.streams import Stream

COUNT = 5
Run = Callable[[tuple[Tensor, ...]], dict[str, Tensor]]


def made_up(learner: Learner, modality: str) -> tuple[Tensor, ...]:
    """``COUNT`` inputs of a modality: smooth random pictures, or class texts in random order."""
    generator = torch.Generator().manual_seed(0)
    spec = learner.spec(modality)
    if isinstance(spec, TextSpec):
        words = " ".join(learner.classes.texts).split()
        return of_texts(
            learner,
            [
                " ".join(words[int(torch.randint(len(words), (1,), generator=generator))] for _ in range(3 * n + 2))
                for n in range(COUNT)
            ],
        )
    coarse = torch.rand(COUNT * spec.frames, 3, 6, 6, generator=generator)
    x = F.interpolate(coarse, (spec.size, spec.size), mode="bicubic").clamp(0, 1).view(COUNT, *spec.shape)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (spec.mean, spec.std))
    return ((x - mean) / std,)


def of_texts(learner: Learner, texts: list[str]) -> tuple[Tensor, ...]:
    ids, mask = learner.encoder.encode(texts)
    return ids, mask.long()


def of_stream(learner: Learner, stream: Stream, modality: str) -> tuple[Tensor, ...] | None:
    """``COUNT`` test samples of a stream, spread over its tasks; None without any."""
    pool = [s for task in stream.tasks if task.modality == modality for s in task.test]
    samples = pool[:: max(1, len(pool) // COUNT)][:COUNT]
    spec = learner.spec(modality)
    for _, batch in loader(samples, spec, torch.device("cpu"), batch_size=COUNT, workers=0, on_error="skip"):
        return (batch,) if isinstance(batch, Tensor) else of_texts(learner, batch)
    return None


def differences(learner: Learner, modality: str, inputs: tuple[Tensor, ...], run: Run) -> dict[str, float]:
    """Largest absolute difference of each output between the learner and a graph, all samples in one batch and each in
    one of its own; of logits as a share of the largest (or of 1)."""
    with torch.no_grad():
        wanted = Predictor(learner, modality).eval()(*inputs)
    out: dict[str, float] = {}
    count = len(inputs[0])
    for rows in [slice(0, count), *(slice(i, i + 1) for i in range(count))]:
        got = run(tuple(x[rows] for x in inputs))
        for name, values in wanted.items():
            a, b = values[rows], got[name]
            same = a == b  # also minus infinity, of classes that another domain's classifier doesn't know
            apart = torch.where(same, 0.0, (a - b).abs())
            if name == "logits":
                apart = apart / a[a.isfinite()].abs().amax().clamp(min=1)
            worst = float(apart.amax())
            out[name] = worst if worst != worst else max(out.get(name, 0.0), worst)  # nan stays
    return out
