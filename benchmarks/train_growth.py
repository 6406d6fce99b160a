"""How cost grows with tasks and classes: ``python -m benchmarks.train_growth SETTINGS``, JSON in, JSON out.

Synthetic trunk tokens and a small head, so that a hundred tasks take a minute: what is measured is the growth, not the
size. The learner, its statistics, re-alignment, evaluation and checkpoints are the real ones.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import torch
import torch.nn.functional as F

from benchmarks.harness import _status
from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.encoders.prompted_blocks import PreNormBlock, block_prefix
from mmcl_fast.learning import Learner
from mmcl_fast.media import VisualSpec
from mmcl_fast.streams import Sample, Task

WIDTH, QUERY, TOKENS, PER_TASK = 64, 128, 8, 10  # D = d; Dq; tokens of a sample; classes of a task
MODALITIES = ("image", "audio")
OPTIONS = {"epochs": 1, "steps": 20, "sampled_features": 256}
CLOCK = time.process_time  # of one thread: neighbours on a shared machine do not stretch it


class SmallHead(Encoder):
    """Two prompted blocks with random weights behind a trunk that is never run; counts what its head embeds."""

    name, dim, query_dim, num_prompted_blocks, logit_scale = "small head", WIDTH, QUERY, 2, 20.0
    fingerprint = hashlib.sha256(b"small head").hexdigest()

    def __init__(self) -> None:
        self.embedded = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = [PreNormBlock(WIDTH, 4, 4 * WIDTH).requires_grad_(False) for _ in range(2)]

    def tower(self, modality: str) -> str:
        return "vision"

    def prefix_width(self, modality: str) -> int:
        return WIDTH

    def spec(self, modality: str) -> VisualSpec:
        return VisualSpec(modality=modality)

    def trunk(self, batch: Any, modality: str) -> Tokens:
        raise NotImplementedError("tokens come from Synthetic")

    def head(self, tokens: Tokens, prefix: torch.Tensor | None, modality: str) -> torch.Tensor:
        self.embedded += len(tokens)
        x = tokens.tokens.float()
        for j, block in enumerate(self.layers):
            x = block(x, block_prefix(prefix, j))
        return x.mean(1)

    def text(self, texts: list[str]) -> torch.Tensor:
        return F.normalize(torch.stack([_normal(text, WIDTH) for text in texts]), dim=1)

    def to(self, device: torch.device | str) -> SmallHead:
        return self


def _normal(name: str, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


class Synthetic:
    """In place of the trunk cache: a sample's tokens from its key, around those of its class.

    Test sets stay in memory as the trunk cache keeps them, training sets do not.
    """

    def __init__(self) -> None:
        self.kept: dict[str, Tokens] = {}

    def tokens(self, encoder: Encoder, samples: Sequence[Sample], *, keep: bool = False, **_: Any) -> Tokens:
        name = samples[0].key
        if name not in self.kept:
            kinds = [_normal(f"{s.modality} {s.label}", WIDTH) + _normal(s.modality, WIDTH) for s in samples]
            x = torch.stack(kinds)[:, None] + _normal(name, len(samples), TOKENS, WIDTH)
            query = (x.mean(1) @ _normal("query", WIDTH, QUERY)).relu()
            made = Tokens(x.bfloat16(), query)
            if not keep:
                return made
            self.kept[name] = made
        return self.kept[name]


def task(index: int, *, fresh: bool, train: int, test: int) -> Task:
    """``PER_TASK`` classes: new ones, or those of the modality's first task again."""
    modality = MODALITIES[index % len(MODALITIES)]
    first = PER_TASK * index if fresh else PER_TASK * (index % len(MODALITIES)) // len(MODALITIES)
    names = [f"class {first + i}" for i in range(PER_TASK if fresh else PER_TASK // len(MODALITIES))]
    samples = [
        Sample(modality, name, None, "", split, f"{index} {split} {name} {i}")
        for split, count in (("train", train), ("test", test))
        for name in names
        for i in range(count * PER_TASK // len(names))
    ]
    return Task(
        index,
        f"task-{index}",
        modality,
        tuple(names),
        tuple((modality, n) for n in names),
        tuple(names),
        tuple(samples),
    )


@contextmanager
def phases_of(learner: Learner) -> Iterator[dict[str, float]]:
    """Processor seconds of the learner's phases, by name."""
    phase = learner.method.phase
    spent: dict[str, float] = {}

    @contextmanager
    def watched(name: str, total: int | None = None) -> Iterator[Any]:
        begun = CLOCK()
        with phase(name, total) as shown:
            yield shown
        spent[name] = spent.get(name, 0.0) + CLOCK() - begun

    with patch.object(learner.method, "phase", watched):
        yield spent


def resident() -> float:
    """MB of this process that are no mapped file (libraries), after what is free went back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return _status("RssAnon") / 1e6


def grow(tasks: Sequence[int], *, fresh: bool, train: int, test: int) -> list[dict]:
    """A learner through ``max(tasks)`` tasks; what the last of the first ``tasks`` cost: the middle one of three.

    Args:
        fresh: every task brings new classes; otherwise all share the same ``PER_TASK``.
        train, test: samples of a class.
    """
    rows, spent = [], []
    encoder = SmallHead()
    learner = Learner(encoder, "comm", options=OPTIONS, device="cpu")
    cache = Synthetic()
    learner.cache = cast(Any, cache)
    seen: list[Task] = []
    for index in range(max(tasks)):
        now = task(index, fresh=fresh, train=train, test=test)
        with phases_of(learner) as phases:
            begun = CLOCK()
            learner.learn(now)
            whole = CLOCK() - begun
        seen.append(replace(now, _samples=tuple(now.test)))  # so that a growing list of samples is not what is measured
        spent.append({"learn": whole, "re-alignment": phases["re-alignment"], "statistics": phases["statistics"]})
        spent[-1]["the rest"] = 2 * whole - sum(spent[-1].values())
        if any(0 <= point - index - 1 < 4 for point in tasks):  # every row of R would cost more than all the learning
            before = encoder.embedded
            begun = CLOCK()
            result = learner.evaluate(seen, setting="agnostic")
            spent[-1] |= {"evaluation": CLOCK() - begun, "embedded": encoder.embedded - before}
        if index + 1 in tasks:
            last = sorted(spent[-3:], key=lambda s: s["learn"])
            rows.append(
                {
                    "tasks": index + 1,
                    "classes": len(learner.classes),
                    "fresh": fresh,
                    "test samples": sum(result.counts),
                    **last[len(last) // 2],
                    **_sizes(learner, cache),
                }
            )
    return rows


def _sizes(learner: Learner, cache: Synthetic) -> dict[str, float]:
    tensors, _ = learner.contents()
    kept = sum(t.nbytes for k, t in tensors.items() if k.startswith("method/memory/class/"))
    with tempfile.TemporaryDirectory() as folder:
        begun = CLOCK()
        learner.save(Path(folder) / "saved")
        seconds = CLOCK() - begun
        disk = sum(f.stat().st_size for f in (Path(folder) / "saved").iterdir())
    del tensors
    return {
        "checkpoint": seconds,
        "bytes per class": kept / len(learner.classes),
        "statistics MB": kept / 1e6,
        "test tokens MB": sum(t.nbytes for t in cache.kept.values()) / 1e6,
        "checkpoint MB": disk / 1e6,
        "resident MB": resident(),
    }


def main() -> None:
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    size = {"train": asked["train"], "test": asked["test"]}
    grow([max(asked["tasks"])], fresh=True, **size)  # fills caches that stay: oneDNN's kernels, one for each shape
    start = resident()
    rows = grow(asked["tasks"], fresh=True, **size) + grow(asked["tasks"], fresh=False, **size)
    print(json.dumps({"rows": rows, "resident MB at the start": start}))


if __name__ == "__main__":
    main()
