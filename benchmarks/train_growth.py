"""Growth of cost with tasks and classes: ``python -m benchmarks.train_growth SETTINGS``, JSON in, JSON out.

Trunk tokens are synthetic and the head is small, so a hundred tasks take a minute. The result is the growth, not the
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

from benchmarks.harness import process_bytes
from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.encoders.prompted_blocks import PreNormBlock, block_prefix
from mmcl_fast.learning import Learner
from mmcl_fast.media import VisualSpec
from mmcl_fast.streams import Sample, Task

WIDTH, QUERY, TOKENS, PER_TASK = 64, 128, 8, 10  # D = d; Dq; tokens of a sample; classes of a task
MODALITIES = ("image", "audio")
OPTIONS = {"epochs": 1, "realignment": "trained", "steps": 20, "sampled_features": 256}
CLOCK = time.process_time  # processor time, which other work on a shared machine does not stretch


class SmallHead(Encoder):
    """Two prompted blocks with random weights behind a trunk that is never run.

    Attributes:
        embedded: number of samples that the head has embedded.
    """

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
        raise NotImplementedError("tokens come from SyntheticCache")

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
    """Return standard normal values that depend on the name alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


class SyntheticCache:
    """Stands in for the feature cache: a sample's tokens come from its key and its class.

    Test sets stay in memory as in the feature cache; training sets do not.
    """

    def __init__(self) -> None:
        self.test_tokens: dict[str, Tokens] = {}

    def tokens(self, encoder: Encoder, samples: Sequence[Sample], *, keep: bool = False, **_: Any) -> Tokens:
        name = samples[0].key
        if name not in self.test_tokens:
            means = [_normal(f"{s.modality} {s.label}", WIDTH) + _normal(s.modality, WIDTH) for s in samples]
            x = torch.stack(means)[:, None] + _normal(name, len(samples), TOKENS, WIDTH)
            query = (x.mean(1) @ _normal("query", WIDTH, QUERY)).relu()
            tokens = Tokens(x.bfloat16(), query)
            if not keep:
                return tokens
            self.test_tokens[name] = tokens
        return self.test_tokens[name]


def make_task(index: int, *, fresh: bool, train: int, test: int) -> Task:
    """Return the task at ``index``; modalities take turns.

    Args:
        index: number of the task, from 0.
        fresh: True: ``PER_TASK`` new classes; False: the classes of the first task of its modality.
        train, test: number of samples of a class. With ``fresh`` False, a task has half the classes and twice the
            samples of a class.
    """
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
def count_phase_seconds(learner: Learner) -> Iterator[dict[str, float]]:
    """Inside, count the processor seconds of the learner's phases, by name."""
    phase = learner.method.phase
    spent: dict[str, float] = {}

    @contextmanager
    def timed(name: str, total: int | None = None) -> Iterator[Any]:
        begun = CLOCK()
        with phase(name, total) as bar:
            yield bar
        spent[name] = spent.get(name, 0.0) + CLOCK() - begun

    with patch.object(learner.method, "phase", timed):
        yield spent


def resident_mb() -> float:
    """Return the MB of this process without mapped files such as libraries, after free memory was given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return process_bytes("RssAnon") / 1e6


def grow(tasks: Sequence[int], *, fresh: bool, train: int, test: int) -> list[dict]:
    """Learn ``max(tasks)`` tasks, and return the cost of a task at each number of tasks.

    The cost is the middle one of the last three tasks up to that number.

    Args:
        tasks: the numbers of tasks at which the cost is returned.
        fresh: True: every task brings new classes; False: the tasks share ``PER_TASK`` classes.
        train, test: number of samples of a class.
    """
    rows, spent = [], []
    encoder = SmallHead()
    learner = Learner(encoder, "comm", options=OPTIONS, device="cpu")
    cache = SyntheticCache()
    learner.cache = cast(Any, cache)
    seen: list[Task] = []
    for index in range(max(tasks)):
        task = make_task(index, fresh=fresh, train=train, test=test)
        with count_phase_seconds(learner) as phases:
            begun = CLOCK()
            learner.learn(task)
            total = CLOCK() - begun
        seen.append(replace(task, _samples=tuple(task.test)))  # without training samples, which would count as memory
        spent.append({"learn": total, "re-alignment": phases["re-alignment"], "statistics": phases["statistics"]})
        spent[-1]["the rest"] = 2 * total - sum(spent[-1].values())
        # Evaluating after every task would cost more than all learning.
        if any(0 <= point - index - 1 < 4 for point in tasks):
            before = encoder.embedded
            begun = CLOCK()
            result = learner.evaluate(seen, setting="agnostic")
            spent[-1] |= {"evaluation": CLOCK() - begun, "embedded": encoder.embedded - before}
        if index + 1 in tasks:
            last_three = sorted(spent[-3:], key=lambda s: s["learn"])
            rows.append(
                {
                    "tasks": index + 1,
                    "classes": len(learner.classes),
                    "fresh": fresh,
                    "test samples": sum(result.counts),
                    **last_three[len(last_three) // 2],
                    **_sizes(learner, cache),
                }
            )
    return rows


def _sizes(learner: Learner, cache: SyntheticCache) -> dict[str, float]:
    """Return the seconds of a checkpoint, and sizes: of statistics, of test tokens, on disk, of the process."""
    tensors, _ = learner.contents()
    statistics = sum(t.nbytes for k, t in tensors.items() if k.startswith("method/memory/class/"))
    with tempfile.TemporaryDirectory() as folder:
        begun = CLOCK()
        learner.save(Path(folder) / "saved")
        seconds = CLOCK() - begun
        disk = sum(f.stat().st_size for f in (Path(folder) / "saved").iterdir())
    del tensors  # before the process is measured
    return {
        "checkpoint": seconds,
        "bytes per class": statistics / len(learner.classes),
        "statistics MB": statistics / 1e6,
        "test tokens MB": sum(t.nbytes for t in cache.test_tokens.values()) / 1e6,
        "checkpoint MB": disk / 1e6,
        "resident MB": resident_mb(),
    }


def main() -> None:
    """Measure growth with new classes and with the same classes, and print both as JSON."""
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    size = {"train": settings["train"], "test": settings["test"]}
    grow([max(settings["tasks"])], fresh=True, **size)  # fills oneDNN's cache, which holds a kernel for each shape
    start = resident_mb()
    rows = grow(settings["tasks"], fresh=True, **size) + grow(settings["tasks"], fresh=False, **size)
    print(json.dumps({"rows": rows, "resident MB at the start": start}))


if __name__ == "__main__":
    main()
