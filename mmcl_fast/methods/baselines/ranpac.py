"""RanPAC: random projections and a ridge classifier (McDonnell et al. 2023, arXiv 2307.02251).

    h = max(0, f W), W ~ N(0, 1) fixed;  G = sum h h',  C = sum h y';  scores = h (G + lambda I)^-1 C

f = [z / |z| ; q / |q|] here. G and C are sums over all samples, so they depend on no order. lambda is chosen anew at
each task: 80 % of the samples, drawn at random, are fitted, and the lambda in 10^-8 ... 10^8 with the least mean square
error on the others is taken; G and C have all of them. The paper chooses on the last task's samples alone
(``held_out = "task"``), so that its result depends on which task comes last and says little for a task of one class or
of few samples. The default chooses on the held-out samples of all tasks so far, by their second moments; for one task
both are the same.

The paper's first phase, a parameter-efficient tuning on the first task alone with a linear classifier that is thrown
away, trains the prompt of that task's tower (``source = "tuned"``); the other tower keeps its bare head. The paper's W
has 10,000 columns; the default is smaller, because every checkpoint holds G.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.comm.relevance import ROWS
from mmcl_fast.methods.shared.classifier import Growing, require_one_process, train
from mmcl_fast.methods.shared.embedding import unit_query
from mmcl_fast.methods.shared.gram import gram_matrix
from mmcl_fast.methods.shared.options import BatchSize, ClassifierRate, Epochs, MethodOptions, PromptLength, PromptRate
from mmcl_fast.methods.shared.prompts import PromptBank, batches, subset
from mmcl_fast.option_fields import Symbol

LAMBDAS = [10.0**k for k in range(-8, 9)]


class RanPacOptions(MethodOptions):
    source: Literal["q", "zq", "tuned"] = Field(
        "tuned",
        description="Features f: q: the trunk's query; zq: the bare head's z and q; tuned: z under a prompt that is "
        "trained on the first task, and q",
    )
    projections: Annotated[int, Symbol("M")] = Field(2000, ge=1, le=20_000, description="Random features")
    held_out: Literal["all", "task"] = Field(
        "all",
        description="Held-out samples that the ridge penalty is chosen on: of all tasks so far, or of the last task",
    )
    prompt_length: PromptLength = 8
    epochs: Epochs = 20
    batch_size: BatchSize = 32
    lr: PromptRate = 0.01
    classifier_lr: ClassifierRate = 0.003


class Moments:
    """G = sum h h' ``[M, M]``, C = sum h y' ``[M, C]`` and sum |y|^2, float64."""

    def __init__(self, size: int):
        self.gram = torch.zeros(size, size, dtype=torch.float64)
        self.cross = torch.zeros(size, 0, dtype=torch.float64)
        self.count = 0  # each y is one-hot: the sum of its squares

    def add(self, h: Tensor, labels: Tensor, outputs: int) -> None:
        """h ``[n, M]``; labels ``[n]`` int64, columns of C; outputs: columns from now on."""
        self.cross = F.pad(self.cross, (0, outputs - self.cross.shape[1]))
        for rows, own in zip(h.split(ROWS), labels.split(ROWS)):
            rows = rows.double().cpu()
            self.gram += gram_matrix(rows)
            self.cross += rows.T @ F.one_hot(own.cpu(), outputs).double()
        self.count += len(h)


def choose_lambda(fitted: Moments, held: Moments) -> float:
    """The lambda of ``LAMBDAS`` whose ridge solution on ``fitted`` has the least squared error on ``held``:
    sum |y - W'h|^2 = sum |y|^2 - 2 tr W'C + tr W'G W, with G and C of ``held``."""
    errors = []
    for weight in LAMBDAS:
        factor, failed = torch.linalg.cholesky_ex(fitted.gram + weight * torch.eye(len(fitted.gram)).double())
        solved = torch.cholesky_solve(fitted.cross, factor)
        error = held.count - 2 * (solved * held.cross).sum() + (solved * (held.gram @ solved)).sum()
        errors.append(float("inf") if failed else float(error))  # too small a lambda for a G without full rank
    return LAMBDAS[errors.index(min(errors))]


class RanPac(Method):
    """Modality given or not makes no difference. Before the first task the scores are zero-shot; later they are -inf
    for classes never trained."""

    name = "ranpac"
    Options = RanPacOptions

    def __init__(self, encoder: Encoder, options: RanPacOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        width = encoder.query_dim + (0 if options.source == "q" else encoder.dim)
        size = options.projections
        self.bank = PromptBank(encoder, options.prompt_length)  # of the first task's tower
        self.random = torch.randn(width, size, generator=self.generator(1)).to(encoder.device)
        self.fitted, self.held = Moments(size), Moments(size)
        self.penalty = 1.0
        self._weight: Tensor | None = None

    def learn(self, data: TaskData, classes: Classes) -> None:
        require_one_process(self)
        if self.options.source == "tuned" and not self.fitted.count:
            self._tune(data)
        with self.phase("statistics"):
            h = self._projected(data.tokens, data.modality)
            order = torch.randperm(len(h), generator=self.generator(data.index, 6)).to(h.device)
            parts = order.split([len(h) - len(h) // 5, len(h) // 5])
            own = [Moments(len(self.fitted.gram)) for _ in parts]
            for rows, task, total in zip(parts, own, (self.fitted, self.held)):
                for moments in (task, total):
                    moments.add(h[rows], data.labels[rows], len(classes))
            chosen_on = own if self.options.held_out == "task" else (self.fitted, self.held)
            if chosen_on[1].count:
                self.penalty = choose_lambda(*chosen_on)
            self._weight = None

    def _tune(self, data: TaskData) -> None:
        """The first phase: a prompt and a linear classifier on the first task."""
        o, generator = self.options, self.generator(data.index, 3)
        prompt, head = self.bank.fresh(data.modality, generator), Growing(self.encoder.dim, self.encoder.device)
        head.grow(len(data.classes))
        target, own = data.targets, list(range(len(data.classes)))
        plan = batches(len(target), o.batch_size, o.epochs, generator)

        def loss(step: int) -> Tensor:
            rows = plan[step].to(target.device)
            return head.loss(self.encoder.head(subset(data.tokens, rows), prompt, data.modality), target[rows], own)

        with self.phase("prompts", len(plan)) as shown:
            train(
                self,
                [([prompt], o.lr), (head.parameters, o.classifier_lr)],
                len(plan),
                loss,
                advance=shown.advance,
                generator=generator,
            )
        self.bank.prompts[self.encoder.tower(data.modality)] = prompt

    def _projected(self, tokens: Tokens, modality: str) -> Tensor:
        """h, ``[n, M]`` float32."""
        source = unit_query(tokens)
        if self.options.source != "q":
            z = self.reuse.one(self.encoder, tokens, modality, self.bank.prompts.get(self.encoder.tower(modality)))
            source = torch.cat([F.normalize(z, dim=-1), source], dim=1)
        return (source @ self.random).relu()

    def weight(self) -> Tensor:
        """(G + lambda I)^-1 C, ``[M, C]`` float32."""
        if self._weight is None:
            gram, cross = self.fitted.gram + self.held.gram, self.fitted.cross + self.held.cross
            lift = self.penalty * torch.eye(len(gram), dtype=torch.float64)
            self._weight = torch.linalg.solve(gram + lift, cross).float().to(self.random.device)
        return self._weight

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        known = self.fitted.cross.shape[1]
        if not known:
            return self.reuse.cosine_scores(self.encoder, tokens, modality, classes.embedding)
        return F.pad(self._projected(tokens, modality) @ self.weight(), (0, len(classes) - known), value=float("-inf"))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"prompt/{k}": v for k, v in self.bank.prompts.items()} | {"random": self.random}
        for name, moments in (("fitted", self.fitted), ("held", self.held)):
            tensors |= {f"{name}/gram": moments.gram, f"{name}/cross": moments.cross}
        return tensors, {"penalty": self.penalty, "counts": [self.fitted.count, self.held.count]}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.bank.prompts = {k.removeprefix("prompt/"): v for k, v in tensors.items() if k.startswith("prompt/")}
        self.random, self.penalty, self._weight = tensors["random"], values["penalty"], None
        for name, moments, count in zip(("fitted", "held"), (self.fitted, self.held), values["counts"]):
            moments.gram, moments.cross, moments.count = tensors[f"{name}/gram"], tensors[f"{name}/cross"], count
