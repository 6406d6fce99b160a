"""Compare a graph with the learner that it was made from, on synthetic inputs and on test samples."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.export.graph import PredictionModule
from mmcl_fast.learning import Learner
from mmcl_fast.media import TextSpec, loader
from mmcl_fast.streams import Stream

NUM_INPUTS = 5
RunGraph = Callable[[tuple[Tensor, ...]], dict[str, Tensor]]


def synthetic_inputs(learner: Learner, modality: str) -> tuple[Tensor, ...]:
    """Return ``NUM_INPUTS`` inputs of a modality: smooth random pictures, or the words of class texts at random."""
    generator = torch.Generator().manual_seed(0)
    spec = learner.spec(modality)
    if isinstance(spec, TextSpec):
        words = " ".join(learner.classes.texts).split()
        return encode_texts(
            learner,
            [
                " ".join(words[int(torch.randint(len(words), (1,), generator=generator))] for _ in range(3 * n + 2))
                for n in range(NUM_INPUTS)
            ],
        )
    coarse = torch.rand(NUM_INPUTS * spec.frames, 3, 6, 6, generator=generator)
    x = F.interpolate(coarse, (spec.size, spec.size), mode="bicubic").clamp(0, 1).view(NUM_INPUTS, *spec.shape)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (spec.mean, spec.std))
    return ((x - mean) / std,)


def encode_texts(learner: Learner, texts: list[str]) -> tuple[Tensor, ...]:
    """Return ids and mask of texts, ``[B, N]`` int64."""
    ids, mask = learner.encoder.encode(texts)
    return ids, mask.long()


def sample_inputs(learner: Learner, stream: Stream, modality: str) -> tuple[Tensor, ...] | None:
    """Return ``NUM_INPUTS`` test samples of a stream, spread over its tasks, or None if none can be read."""
    pool = [s for task in stream.tasks if task.modality == modality for s in task.test]
    samples = pool[:: max(1, len(pool) // NUM_INPUTS)][:NUM_INPUTS]
    spec = learner.spec(modality)
    for _, batch in loader(samples, spec, torch.device("cpu"), batch_size=NUM_INPUTS, workers=0, on_error="skip"):
        return (batch,) if isinstance(batch, Tensor) else encode_texts(learner, batch)
    return None


def largest_differences(
    learner: Learner, modality: str, inputs: tuple[Tensor, ...], run_graph: RunGraph
) -> dict[str, float]:
    """Return, for each output, the largest absolute difference between the learner and a graph.

    The graph runs on all samples in one batch, and on each sample alone. A difference of logits is divided by the
    largest finite logit, or by 1 if that is larger. A difference of ``unknown`` counts without one held-out sample's
    share: rounding moves a score past the nearest level.

    Returns:
        Output -> difference; nan if a value of the graph is nan.
    """
    with torch.no_grad():
        expected = PredictionModule(learner, modality).eval()(*inputs)
    out: dict[str, float] = {}
    count = len(inputs[0])
    for rows in [slice(0, count), *(slice(i, i + 1) for i in range(count))]:
        outputs = run_graph(tuple(x[rows] for x in inputs))
        for name, values in expected.items():
            a, b = values[rows], outputs[name]
            same = a == b  # equal infinities too, whose difference would be nan: logits of classes that are ruled out
            difference = torch.where(same, 0.0, (a - b).abs())
            if name == "logits":
                difference = difference / a[a.isfinite()].abs().amax().clamp(min=1)
            if name == "unknown":
                difference = (difference - 1 / len(learner.unknown.levels[modality])).clamp(min=0)
            worst = float(difference.amax())
            out[name] = worst if worst != worst else max(out.get(name, 0.0), worst)  # max would lose a nan
    return out
