"""One row of `bench train` in a process of its own: ``python -m benchmarks.train_rows SETTINGS``, JSON in, JSON out."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import torch

from benchmarks import plain_loop, train_avalanche
from benchmarks.rivals import CannotRun
from benchmarks.train_data import make_stream
from mmcl_fast.encoders import Encoder, Tokens, load_encoder
from mmcl_fast.errors import EncoderError
from mmcl_fast.feature_cache.cache import FeatureCache
from mmcl_fast.learning import Learner
from mmcl_fast.learning.metrics import last
from mmcl_fast.media import Spec, loader
from mmcl_fast.methods.comm.method import CommOptions
from mmcl_fast.ops import attention
from mmcl_fast.streams import Sample, Stream

PHASES = ("first pass", *plain_loop.PHASES, "bookkeeping", "evaluation")


class SecondForward(Tokens):
    """Tokens that cost a second forward: taking a batch runs the frozen encoder once more, for the query.

    Args:
        inner: the tokens.
        samples: their samples, for a forward from the files as in L2P; None: a forward of the head over the tokens.
        spec, workers: how files are decoded.
    """

    def __init__(
        self, inner: Tokens, encoder: Encoder, modality: str, samples: Sequence[Sample] | None, spec: Spec, workers: int
    ):
        self.inner, self.query, self.encoder, self.modality = inner, inner.query, encoder, modality
        self.samples, self.spec, self.workers = samples, spec, workers

    @property
    def tokens(self) -> torch.Tensor:
        return self.inner.tokens

    @property
    def mask(self) -> torch.Tensor | None:
        return self.inner.mask

    @property
    def device(self) -> torch.device:
        return self.inner.device

    def __len__(self) -> int:
        return len(self.inner)

    @torch.no_grad()
    def __getitem__(self, rows: Any) -> Tokens:
        out = self.inner[rows]
        if self.samples is None:
            self.encoder.head(out, None, self.modality)
            return out
        numbers = torch.arange(len(self))[rows.cpu() if torch.is_tensor(rows) else rows].unique().tolist()
        chosen = [self.samples[i] for i in numbers]
        for _, batch in loader(chosen, self.spec, self.encoder.device, workers=self.workers, batch_size=16):
            self.encoder.head(self.encoder.trunk(batch, self.modality), None, self.modality)
        return out


class SecondForwardCache:
    """A feature cache whose tokens cost a second forward.

    Args:
        cache: the cache that computes and keeps the tokens.
        from_files: see ``SecondForward``: from the files, or over the tokens.
    """

    def __init__(self, cache: FeatureCache, from_files: bool):
        self.cache, self.from_files = cache, from_files

    def tokens(self, encoder: Encoder, samples: Sequence[Sample], **options: Any) -> Tokens:
        inner, modality = self.cache.tokens(encoder, samples, **options), samples[0].modality
        return SecondForward(
            inner, encoder, modality, samples if self.from_files else None, encoder.spec(modality), self.cache.workers
        )


def ours(
    encoder: Encoder,
    stream: Stream,
    options: CommOptions,
    *,
    seed: int,
    cache: str = "on",
    query: str = "trunk",
    folder: Path,
    measure: bool = False,
) -> dict:
    """Learn and evaluate with ``mmcl_fast.Learner``; its feature cache is empty at the start.

    Args:
        cache: ``on``; or ``off``: every request decodes the files and runs the trunk again.
        query: ``trunk``: the query comes from the trunk's output. ``head`` adds a second forward of the head over
            cached tokens, ``files`` a whole second forward from the files.
        folder: where the feature cache is written.
        measure: also time decoding alone and the trunk alone.

    Returns:
        "seconds" by phase, "total" seconds, "R", "last", samples "trained" and "evaluated", seconds of "later epochs".
    """
    workers = os.cpu_count() or 1
    learner = Learner(
        encoder, "comm", options=vars(options), seed=seed, device=str(encoder.device), cache_dir=folder, workers=workers
    )
    if cache == "off":
        learner.cache = FeatureCache(None, budget_gb=0, memory=0, workers=workers)
    elif query != "trunk":
        learner.cache = cast(Any, SecondForwardCache(learner.cache, query == "files"))
    seconds = dict.fromkeys(PHASES, 0.0)
    R: list[list[float | None]] = [[None] * len(stream)]
    trained = evaluated = 0
    started = time.perf_counter()
    for task in stream:
        spent = learner.learn(task)
        before = time.perf_counter()
        _wait(encoder)
        spent["bookkeeping"] += time.perf_counter() - before
        spent["first pass"] = spent.pop("decode and trunk")
        before = time.perf_counter()
        result = learner.evaluate(stream.seen, setting="agnostic")
        spent["evaluation"] = time.perf_counter() - before
        for phase, value in spent.items():
            seconds[phase] += value
        R.append([*result.accuracy("agnostic"), *[None] * (len(stream) - len(R))])
        trained, evaluated = trained + len(task.train), evaluated + sum(result.counts)
    total = time.perf_counter() - started
    epochs = options.epochs
    row = {
        "seconds": seconds,
        "total": total,
        "R": R,
        "last": last(R),
        "trained": trained,
        "evaluated": evaluated,
        "later epochs": seconds["prompts"] * (epochs - 1) / epochs,
    }
    return row | ({"alone": _alone(encoder, stream, workers)} if measure else {})


def _alone(encoder: Encoder, stream: Stream, workers: int) -> dict[str, float]:
    """Return samples per second of decoding alone and of the trunk alone, over a task of each modality."""
    seconds, count = {"decode": 0.0, "trunk": 0.0}, 0
    for modality in stream.modalities:
        samples = next(t for t in stream.tasks if t.modality == modality).train
        begun = time.perf_counter()
        decoded = [
            batch for _, batch in loader(samples, encoder.spec(modality), encoder.device, workers=workers, batch_size=8)
        ]
        _wait(encoder)
        seconds["decode"] += time.perf_counter() - begun
        begun = time.perf_counter()
        for batch in decoded:
            encoder.trunk(batch, modality)
        _wait(encoder)
        seconds["trunk"] += time.perf_counter() - begun
        count += len(samples)
    return {name: count / spent for name, spent in seconds.items()}


def _wait(encoder: Encoder) -> None:
    if encoder.device.type == "cuda":
        torch.cuda.synchronize()


ROWS: dict[str, Callable[..., dict]] = {
    "ours": lambda *a, **k: ours(*a, **k, measure=True),
    "ours, second forward of the head for the query": lambda *a, **k: ours(*a, **k, query="head"),
    "ours, re-alignment through torch.compile": lambda encoder, stream, options, **k: ours(
        encoder, stream, options.model_copy(update={"compiled": True}), **k
    ),
    "ours, cache off": lambda *a, **k: ours(*a, **k, cache="off"),
    "ours, two-forward query from the files, as L2P": lambda *a, **k: ours(*a, **k, query="files"),
    "plain PyTorch loop, one forward": lambda *a, folder, **k: plain_loop.run(*a, **k, two_forward=False),
    "plain PyTorch loop, two-forward query": lambda *a, folder, **k: plain_loop.run(*a, **k),
    "Avalanche's loop, two-forward query": lambda *a, folder, **k: train_avalanche.run(*a, **k),
}
ON_REQUEST = (  # rows that run only where they are named
    "ours, second forward of the head for the query",
    "ours, re-alignment through torch.compile",
    "plain PyTorch loop, one forward",
)


def is_plain(row: str) -> bool:
    """Return whether a row runs on torch's own operations; on a CPU in float32."""
    return not row.startswith("ours")


def main() -> None:
    settings = SimpleNamespace(**json.loads(sys.argv[1]))
    if is_plain(settings.row):
        patch.object(attention, "load", lambda: (None, "torch's own attention is taken")).start()
    try:
        full = is_plain(settings.row) and settings.device == "cpu"  # on a GPU a user would write autocast
        encoder = load_encoder(settings.encoder, device=settings.device, precision="fp32" if full else "auto")
        if encoder.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        out = ROWS[settings.row](
            encoder,
            make_stream(settings.data, settings.classes_per_task, settings.seed),
            CommOptions(**settings.options),
            seed=settings.seed,
            folder=Path(settings.folder),
        )
        if encoder.device.type == "cuda":
            out["peak device MB"] = torch.cuda.max_memory_allocated() / 1e6
    except (CannotRun, EncoderError) as error:
        out = {"why": str(error)}
    print(json.dumps(out))


if __name__ == "__main__":
    main()
