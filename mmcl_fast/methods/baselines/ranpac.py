"""RanPAC: random projections and a ridge classifier (McDonnell et al. 2023, arXiv 2307.02251).

    h = max(0, f W), W ~ N(0, 1) fixed;  G = sum h h',  C = sum h y';  scores = h (G + lambda I)^-1 C

f = [z / |z| ; q / |q|] here. G and C are sums over all samples, so the order of the tasks does not matter. lambda is
chosen anew at each task. A random 80 % of the samples is fitted, and the lambda of 10^-8 ... 10^8 with the least mean
squared error on the others is taken. The final G and C have all samples.

Departures from the paper:

- The paper chooses lambda on the last task's samples alone (``held_out = "task"``). Its result then depends on which
  task comes last, and says little for a task of one class or of few samples. The default chooses on the held-out
  samples of all tasks so far, by their second moments. For one task the two are the same.
- The paper's first phase is a parameter-efficient tuning on the first task alone, with a linear classifier that is
  thrown away. Here it trains the prompt of that task's tower (``source = "tuned"``); the other tower keeps its bare
  head.
- The paper's W has 10,000 columns. The default is smaller, because every checkpoint holds G.

Options: :class:`RanPacOptions`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.shared.classifier import GrowingClassifier, require_one_process, train_in_one_process
from mmcl_fast.methods.shared.embedding import unit_query
from mmcl_fast.methods.shared.gram import gram_matrix
from mmcl_fast.methods.shared.options import BatchSize, ClassifierRate, Epochs, MethodOptions, PromptLength, PromptRate
from mmcl_fast.methods.shared.prompt_and_classifier import strip_prefix
from mmcl_fast.methods.shared.prompts import PromptBank, batches, subset
from mmcl_fast.methods.shared.ridge_regression import BLOCK_ROWS
from mmcl_fast.option_fields import Symbol

LAMBDAS = [10.0**k for k in range(-8, 9)]


class RanPacOptions(MethodOptions):
    source: Literal["q", "zq", "tuned"] = Field(
        "tuned",
        description="Features f. q: the trunk's query. zq: the bare head's z, and q. tuned: z under a prompt that is "
        "trained on the first task, and q",
    )
    projections: Annotated[int, Symbol("M")] = Field(2000, ge=1, le=20_000, description="Random features")
    held_out: Literal["all", "task"] = Field(
        "all", description="Held-out samples that lambda is chosen on. all: of all tasks so far. task: of the last task"
    )
    prompt_length: PromptLength = 8
    epochs: Epochs = 20
    batch_size: BatchSize = 32
    lr: PromptRate = 0.01
    classifier_lr: ClassifierRate = 0.003


class RidgeMoments:
    """The sums that ridge regression onto one-hot y needs, float64.

    Attributes:
        gram: G = sum h h' ``[M, M]``.
        cross: C = sum h y' ``[M, C]``.
        count: the number of samples, which is sum |y|^2.
    """

    def __init__(self, size: int):
        self.gram = torch.zeros(size, size, dtype=torch.float64)
        self.cross = torch.zeros(size, 0, dtype=torch.float64)
        self.count = 0

    def add(self, h: Tensor, labels: Tensor, outputs: int) -> None:
        """Add samples.

        Args:
            h: ``[n, M]``.
            labels: ``[n]`` int64, columns of C.
            outputs: the number of columns that C has from now on.
        """
        self.cross = F.pad(self.cross, (0, outputs - self.cross.shape[1]))
        for rows, block_labels in zip(h.split(BLOCK_ROWS), labels.split(BLOCK_ROWS)):
            rows = rows.double().cpu()
            self.gram += gram_matrix(rows)
            self.cross += rows.T @ F.one_hot(block_labels.cpu(), outputs).double()
        self.count += len(h)


def choose_lambda(fitted: RidgeMoments, held: RidgeMoments) -> float:
    """Return the lambda of ``LAMBDAS`` whose ridge solution on ``fitted`` has the least squared error on ``held``.

    The error is sum |y - W'h|^2 = sum |y|^2 - 2 tr W'C + tr W'G W, with G and C of ``held``.
    """
    errors = []
    for weight in LAMBDAS:
        factor, failed = torch.linalg.cholesky_ex(fitted.gram + weight * torch.eye(len(fitted.gram)).double())
        solved = torch.cholesky_solve(fitted.cross, factor)
        error = held.count - 2 * (solved * held.cross).sum() + (solved * (held.gram @ solved)).sum()
        errors.append(float("inf") if failed else float(error))  # too small a lambda for a G without full rank
    return LAMBDAS[errors.index(min(errors))]


class RanPac(Method):
    """RanPAC. The given modality changes nothing.

    Before the first task the scores are zero-shot; later they are -inf for classes that were never trained.

    Attributes:
        bank: the prompt of the first task's tower.
        random: W ``[d, M]``.
        fitted: moments of the 80 % of samples that lambda's candidates are fitted on.
        held: moments of the held-out 20 %.
        penalty: lambda.
    """

    name = "ranpac"
    Options = RanPacOptions

    def __init__(self, encoder: Encoder, options: RanPacOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        width = encoder.query_dim + (0 if options.source == "q" else encoder.dim)
        size = options.projections
        self.bank = PromptBank(encoder, options.prompt_length)
        self.random = torch.randn(width, size, generator=self.generator(1)).to(encoder.device)
        self.fitted, self.held = RidgeMoments(size), RidgeMoments(size)
        self.penalty = 1.0
        self._weight: Tensor | None = None

    def learn(self, data: TaskData, classes: Classes) -> None:
        require_one_process(self)
        if self.options.source == "tuned" and not self.fitted.count:
            self._tune(data)
        with self.phase("statistics"):
            h = self._random_features(data.tokens, data.modality)
            order = torch.randperm(len(h), generator=self.generator(data.index, 6)).to(h.device)
            parts = order.split([len(h) - len(h) // 5, len(h) // 5])
            task_moments = [RidgeMoments(len(self.fitted.gram)) for _ in parts]
            for rows, task, total in zip(parts, task_moments, (self.fitted, self.held)):
                for moments in (task, total):
                    moments.add(h[rows], data.labels[rows], len(classes))
            chosen_on = task_moments if self.options.held_out == "task" else (self.fitted, self.held)
            if chosen_on[1].count:  # fewer than 5 samples hold none out: lambda stays
                self.penalty = choose_lambda(*chosen_on)
            self._weight = None

    def _tune(self, data: TaskData) -> None:
        """Run the first phase: train a prompt and a linear classifier on the first task."""
        o, generator = self.options, self.generator(data.index, 3)
        prompt = self.bank.fresh(data.modality, generator)
        classifier = GrowingClassifier(self.encoder.dim, self.encoder.device)
        classifier.grow(len(data.classes))
        target, columns = data.targets, list(range(len(data.classes)))
        plan = batches(len(target), o.batch_size, o.epochs, generator)

        def loss(step: int) -> Tensor:
            rows = plan[step].to(target.device)
            z = self.encoder.head(subset(data.tokens, rows), prompt, data.modality)
            return classifier.loss(z, target[rows], columns)

        with self.phase("prompts", len(plan)) as shown:
            train_in_one_process(
                self,
                [([prompt], o.lr), (classifier.parameters, o.classifier_lr)],
                len(plan),
                loss,
                advance=shown.advance,
                generator=generator,
            )
        self.bank.prompts[self.encoder.tower(data.modality)] = prompt

    def _random_features(self, tokens: Tokens, modality: str) -> Tensor:
        """h, ``[n, M]`` float32."""
        f = unit_query(tokens)
        if self.options.source != "q":
            prompt = self.bank.prompts.get(self.encoder.tower(modality))
            z = self.embedding_cache.embed_with_prompt(self.encoder, tokens, modality, prompt)
            f = torch.cat([F.normalize(z, dim=-1), f], dim=1)
        return (f @ self.random).relu()

    def weight(self) -> Tensor:
        """Return (G + lambda I)^-1 C, ``[M, C]`` float32."""
        if self._weight is None:
            gram, cross = self.fitted.gram + self.held.gram, self.fitted.cross + self.held.cross
            lift = self.penalty * torch.eye(len(gram), dtype=torch.float64)
            self._weight = torch.linalg.solve(gram + lift, cross).float().to(self.random.device)
        return self._weight

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        known = self.fitted.cross.shape[1]
        if not known:
            return self.embedding_cache.cosine_scores(self.encoder, tokens, modality, classes.embedding)
        out = self._random_features(tokens, modality) @ self.weight()
        return F.pad(out, (0, len(classes) - known), value=float("-inf"))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        # W is stored: another version of torch may draw other numbers from the same seed.
        tensors = {f"prompt/{k}": v for k, v in self.bank.prompts.items()} | {"random": self.random}
        for name, moments in (("fitted", self.fitted), ("held", self.held)):
            tensors |= {f"{name}/gram": moments.gram, f"{name}/cross": moments.cross}
        return tensors, {"penalty": self.penalty, "counts": [self.fitted.count, self.held.count]}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.bank.prompts = strip_prefix("prompt/", tensors)
        self.random, self.penalty, self._weight = tensors["random"], values["penalty"], None
        for name, moments, count in zip(("fitted", "held"), (self.fitted, self.held), values["counts"]):
            moments.gram, moments.cross, moments.count = tensors[f"{name}/gram"], tensors[f"{name}/cross"], count
