"""COMM as a PyTorch user writes it, with torch's own operations and no cache.

A DataLoader decodes the files in every epoch. Each step runs the frozen encoder from the pixels: once for the query, as
in L2P, and once more under the prompts.

Model, prompts, steps, statistics and re-alignment are the ones of ``mmcl_fast.methods.comm.method`` with the options
``SIMPLEST``, so accuracies compare. Where a choice was open, this loop has the cheaper way. It keeps the queries and
the embeddings under the old prompts in memory while a task is learned. The trunk, which does not depend on prompts,
runs without gradient.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks import media_ways
from mmcl_fast.encoders import Encoder, Tokens
from mmcl_fast.learning.metrics import last
from mmcl_fast.media import Spec
from mmcl_fast.methods.comm.held_out import leave_one_out_error
from mmcl_fast.methods.comm.method import Comm, CommOptions
from mmcl_fast.methods.comm.prompt_learning import BORROWING_TEMPERATURE, LEAST_GAIN
from mmcl_fast.methods.shared.prompt_training import UNIT_SAMPLES
from mmcl_fast.methods.shared.prompts import PromptBank, concat_tokens, prefix_units
from mmcl_fast.streams import Sample, Stream, Task

# The options whose steps are not written out here.
SIMPLEST: dict[str, Any] = {
    "prompts": True,
    "token_scale_shift": False,
    "channel_dropout": 0.0,
    "class_targets": "texts",
    "token_means": False,
    "least_steps": 0,
    "realignment": "trained",
    "penalty": 0.5,
}

PHASES = ("relevance", "borrowing", "prompts", "features", "statistics", "re-alignment")

READERS: dict[str, Callable[[Any, int], Callable[[Path], Any]]] = {
    "image": media_ways.pillow,
    "audio": media_ways.soundfile,
    "video": media_ways.pyav,
    "depth": media_ways.depth,
    "text": media_ways.text,
}


class Media(Dataset):
    """A dataset whose items are (decoded sample, label, position of the sample)."""

    def __init__(self, samples: Sequence[Sample], labels: Sequence[int], spec: Spec, workers: int):
        self.samples, self.labels, self.spec = samples, labels, spec
        self.read = READERS[spec.modality](spec, workers)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> tuple[Tensor | str, int, int]:
        sample = self.samples[number]
        x = sample.text if sample.text is not None else self.read(cast(Path, sample.path))
        if isinstance(x, Tensor) and x.dim() == 3:
            x = x[None]
        return x, self.labels[number], number


class PlainComm:
    """The method's parts, which a training loop calls: this file's, or another framework's.

    Args:
        encoder: the frozen encoder.
        options: the method's options, with the values of ``SIMPLEST``.
        seed: fixes everything random.
        workers: number of processes of each DataLoader.
        two_forward: True: the query costs a forward of its own. False: it comes from the forward of the step.

    Attributes:
        comm: the method, whose parts (relevance, memory, re-alignment) are used; its learning is written out here.
        bank: the prompts, prefixes alone.
        texts: ``[C, D]``, embeddings of the class texts.
        labels: (modality, class name) -> column of ``texts``.
        prompt: the prompt that is being trained, in units of the blocks' keys and values; empty between tasks.

    Raises:
        ValueError: an option has another value than in ``SIMPLEST``.
    """

    def __init__(self, encoder: Encoder, options: CommOptions, *, seed: int, workers: int, two_forward: bool = True):
        if other := {name for name, value in SIMPLEST.items() if getattr(options, name) != value}:
            raise ValueError(f"the plain loop has only {SIMPLEST}; other values: {', '.join(sorted(other))}")
        self.encoder, self.options, self.two_forward, self.workers = encoder, options, two_forward, workers
        self.comm = Comm(encoder, options, seed=seed)
        self.bank = PromptBank(encoder, options.prompt_length)
        self.texts = torch.empty(0, encoder.dim, device=encoder.device)
        self.named: list[str] = []
        self.labels: dict[tuple[str, str], int] = {}
        self.prompt = torch.empty(0)

    # ---- data -----------------------------------------------------------------------------------------------

    def media(self, task: Task, split: str) -> Media:
        """Return the dataset of a task's split."""
        samples = task.split(split)
        ids = {name: self.labels[key] for name, key in zip(task.classes, task.class_ids)}
        return Media(samples, [ids[s.label] for s in samples], self.encoder.spec(task.modality), self.workers)

    def loader(self, data: Dataset, shuffle: bool = False, generator: torch.Generator | None = None) -> DataLoader:
        """Return a loader of batches of (decoded samples, labels, positions)."""
        return DataLoader(
            data,
            self.options.batch_size,
            shuffle,
            generator=generator,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=self.encoder.device.type == "cuda",
        )

    def _each(self, batches: DataLoader) -> Iterator[tuple[Tensor | list[str], Tensor]]:
        for x, _, number in batches:
            yield self._move(x), number

    def _move(self, x: Tensor | Sequence[str]) -> Tensor | list[str]:
        return x.to(self.encoder.device, non_blocking=True) if isinstance(x, Tensor) else list(x)

    # ---- one forward or two ---------------------------------------------------------------------------------

    def forward(self, x: Tensor | list[str], modality: str, query: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the embeddings z ``[B, D]`` under the prompts, and the unit queries.

        Args:
            query: the unit queries; None: they are computed, which costs a forward with ``two_forward``.
        """
        if query is None:
            tokens = self.encoder.trunk(x, modality)
            query = _unit(tokens.query)
            if self.two_forward:
                with torch.no_grad():
                    self.encoder.head(tokens, None, modality)
                tokens = self.encoder.trunk(x, modality)
        else:
            tokens = self.encoder.trunk(x, modality)
        return self._prompted(tokens, modality, query), query

    def _prompted(self, tokens: Tokens, modality: str, query: Tensor) -> Tensor:
        return self.encoder.head(tokens, self._prefix(modality, self.comm.relevance(query)), modality)

    def _prefix(self, modality: str, weight: Tensor) -> Tensor | None:
        """Return sum_k c_k P_k over the modalities k of the same tower, without small contributions c_k.

        Args:
            weight: ``[..., M]``, the relevance of each modality.
        """
        names, encoder, prompts = self.comm.relevance.modalities, self.encoder, dict(self.bank.prompts)
        if self.prompt.numel():
            prompts[modality] = self.prompt * self.units
        same = [m for m in names if m in prompts and encoder.tower(m) == encoder.tower(modality)]
        if not same:
            return None
        c = F.normalize(weight[..., [names.index(m) for m in same]], p=1, dim=-1)
        c = F.normalize(c * (c >= min(self.options.least_share, 1 / len(same))), p=1, dim=-1)
        return torch.einsum("...k,kjpld->...jpld", c, torch.stack([prompts[m] for m in same]))

    @torch.no_grad()
    def _embed(self, batches: DataLoader, modality: str) -> Tensor:
        """Return z of all samples of the task, under the current prompts."""
        z = torch.empty(len(self.queries), self.encoder.dim, device=self.encoder.device)
        for x, number in self._each(batches):
            z[number] = self.forward(x, modality, self.queries[number])[0]
        return z

    @torch.no_grad()
    def _borrow(self, batches: DataLoader, modality: str) -> Tensor | None:
        """Return a blend of the tower's prompts by how much each helps with the task; None where none does."""
        tower = self.encoder.tower(modality)
        prompts = [p for m, p in self.bank.prompts.items() if self.encoder.tower(m) == tower]
        z = torch.empty(1 + len(prompts), len(self.queries), self.encoder.dim, device=self.encoder.device)
        if not prompts:
            return None
        for x, number in self._each(batches):
            tokens = self.encoder.trunk(x, modality)
            for k, prompt in enumerate([None, *prompts]):
                z[k, number] = self.encoder.head(tokens, prompt, modality)
        targets = torch.tensor(self.data.labels, device=z.device) - self.target0
        features = [torch.cat([_unit(some), self.queries], dim=1) for some in z]
        bare, *errors = [leave_one_out_error(u, targets, len(self.task.classes)) for u in features]
        if min(errors) > bare - LEAST_GAIN:
            return None
        shares = torch.softmax(-torch.tensor(errors) / BORROWING_TEMPERATURE, 0).to(z.device)
        return torch.einsum("k,kjpld->jpld", shares, torch.stack(prompts))

    def _units(self, batches: DataLoader, modality: str) -> Tensor:
        """Return the units of a prefix, ``[J, 2, 1, 1]``, from the first samples of the task."""
        count, parts = 0, []
        for x, _ in self._each(batches):
            parts.append(self.encoder.trunk(x, modality))
            count += len(x)
            if count >= UNIT_SAMPLES:
                break
        return prefix_units(self.encoder, concat_tokens(*parts)[:UNIT_SAMPLES], modality)[:, :, None, None]

    # ---- a task ---------------------------------------------------------------------------------------------

    def begin(self, task: Task) -> None:
        """Begin a task: learn the relevance, and make the prompt that is to be trained."""
        known = len(self.texts)
        self.labels |= {key: known + i for i, key in enumerate(task.class_ids)}
        texts = [f"{text} ({task.modality})" if text in self.named else text for text in task.texts]
        self.named += texts
        self.texts = torch.cat([self.texts, self.encoder.text(texts).to(self.texts.device)])
        self.task, self.index = task, getattr(self, "index", -1) + 1
        self.target0, comm, modality = known, self.comm, task.modality
        self.prompt = torch.empty(0)
        data = self.data = self.media(task, "train")
        self.sequential = self.loader(data)
        self.queries = torch.empty(len(data), self.encoder.query_dim, device=self.encoder.device)
        with comm.phase("relevance"):
            for x, number in self._each(self.sequential):
                tokens = self.encoder.trunk(x, modality)
                if self.two_forward:
                    with torch.no_grad():
                        self.encoder.head(tokens, None, modality)
                self.queries[number] = _unit(tokens.query)
            first = modality not in comm.relevance.modalities
            comm.relevance.learn(self.queries, modality, {}, comm.generator(self.index, 1))
        with comm.phase("features"):
            self.before = None if first else self._embed(self.sequential, modality)
        self.generator = comm.generator(self.index, 3)
        with comm.phase("borrowing"):
            start = self._borrow(self.sequential, modality) if first else self.bank.prompts[modality]
            self.units = self._units(self.sequential, modality)
        fresh = self.bank.fresh(modality, self.generator) if start is None else None
        self.start, self.anchor = start, None
        self.prompt = start / self.units if start is not None else cast(Tensor, fresh)
        if start is not None:
            self.anchor = self._embed(self.sequential, modality) if first else self.before

    def loss(self, z: Tensor, labels: Tensor, number: Tensor) -> Tensor:
        """Return the cross-entropy over the task's classes plus the self-regularisation.

        Args:
            z: ``[B, D]``.
            labels: ``[B]``, columns of ``texts``.
            number: ``[B]``, positions of the samples in the task.
        """
        logits = self.encoder.logit_scale * _unit(z) @ self.texts[self.target0 :].T
        value = F.cross_entropy(logits, labels - self.target0)
        if self.anchor is not None:
            value = value + self.options.self_regularisation * (1 - F.cosine_similarity(z, self.anchor[number])).mean()
        return value

    def optimiser(self, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Return Adam over the prompt, and its schedule over ``steps`` steps."""
        text = self.encoder.tower(self.task.modality) == "text"
        rate = self.options.text_lr if text else self.options.lr
        adam = torch.optim.Adam([self.prompt.requires_grad_(True)], rate)
        return adam, schedule(adam, steps)

    def end(self) -> None:
        """End a task: shrink the prompt's update, update the statistics and re-align."""
        o, comm, modality = self.options, self.comm, self.task.modality
        prompt = self.prompt.detach() * self.units
        if self.start is not None and o.aggregation:
            seen = len(self.data) / len(self.task.classes)
            prompt = torch.lerp(self.start, prompt, seen / (seen + o.prompt_prior))
        self.bank.prompts[modality], self.prompt = prompt, torch.empty(0)
        with comm.phase("features"):
            after = self._embed(self.sequential, modality)
        with comm.phase("statistics"):
            self._remember(_unit(after), modality)
        with comm.phase("re-alignment"):
            names, generator = comm.relevance.modalities, comm.generator(self.index, 4)
            comm.realigner.solve(comm.memory, self.texts, names, o.penalty, o.dual_targets)
            comm.realigner.train(
                comm.memory,
                self.texts,
                names,
                lambda u: comm.relevance(_unit(u[:, self.encoder.dim :])),
                o,
                generator,
                advance=lambda n: None,
            )

    def _remember(self, z: Tensor, modality: str) -> None:
        memory, dim = self.comm.memory, self.encoder.dim
        u = torch.cat([z, self.queries], dim=1)
        if memory.labels(modality) and self.before is not None:
            before = torch.cat([_unit(self.before), self.queries], dim=1)
            memory.correct_drift(modality, (), u[:, :dim] - before[:, :dim], before, self.options.drift_width, dim)
        labels = torch.tensor(self.data.labels)
        memory.add(modality, range(self.target0, len(self.texts)), u, labels)

    @torch.no_grad()
    def scores(self, x: Tensor | list[str], modality: str) -> Tensor:
        """Return scores ``[B, C]`` over the classes so far, modality agnostic."""
        z, query = self.forward(self._move(x), modality)
        u = torch.cat([_unit(z), query], dim=1)
        return self.comm.realigner(u, self.comm.relevance(query)) @ self.texts.T


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.float(), dim=-1)


def schedule(adam: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the warmed-up cosine schedule of ``mmcl_fast.methods.shared.prompts.train_prefix``."""
    warm = max(1, steps // 10)
    return torch.optim.lr_scheduler.LambdaLR(
        adam, lambda k: min(1.0, (k + 1) / warm) * 0.5 * (1 + math.cos(math.pi * k / max(steps, 1)))
    )


def run(
    encoder: Encoder,
    stream: Stream,
    options: CommOptions,
    *,
    seed: int,
    workers: int = os.cpu_count() or 1,
    two_forward: bool = True,
) -> dict:
    """Learn a stream and evaluate after every task.

    Returns:
        "seconds" by phase, "total" seconds, "R", "last", samples "trained" and "evaluated", seconds of "later epochs".
    """
    model = PlainComm(encoder, options, seed=seed, two_forward=two_forward, workers=workers)
    later: list[float] = []
    R: list[list[float | None]] = [[None] * len(stream)]
    seen, evaluated, spent = 0, 0, 0.0
    model.comm.seconds = dict.fromkeys(
        ("relevance", "features", "borrowing", "prompts", "statistics", "re-alignment"), 0.0
    )
    started = time.perf_counter()
    for task in stream:
        model.begin(task)
        batches = model.loader(model.data, shuffle=True, generator=model.generator)
        adam, rate = model.optimiser(len(batches) * options.epochs)
        with model.comm.phase("prompts"):
            for epoch in range(options.epochs):
                begun = time.perf_counter()
                for x, labels, number in batches:
                    adam.zero_grad()
                    z, _ = model.forward(model._move(x), task.modality)
                    model.loss(z, labels.to(z.device), number.to(z.device)).backward()
                    adam.step()
                    rate.step()
                _wait(encoder)
                later += [time.perf_counter() - begun] if epoch else []
        model.end()
        _wait(encoder)
        seen += len(task.train)
        before = time.perf_counter()
        R.append([None] * len(stream))
        for known in stream.seen:
            data = model.media(known, "test")
            right = 0
            for x, labels, _ in model.loader(data):
                right += int((model.scores(x, known.modality).argmax(1).cpu() == labels).sum())
            R[-1][known.index] = 100 * right / len(data)
            evaluated += len(data)
        spent += time.perf_counter() - before
    total = time.perf_counter() - started
    return {
        "seconds": {**model.comm.seconds, "evaluation": spent},
        "total": total,
        "R": R,
        "last": last(R),
        "later epochs": sum(later),
        "trained": seen,
        "evaluated": evaluated,
    }


def _wait(encoder: Encoder) -> None:
    if encoder.device.type == "cuda":
        torch.cuda.synchronize()
