"""RanPAC: random projections and a ridge classifier (McDonnell et al. 2023, arXiv 2307.02251).

    h = max(0, f W), W ~ N(0, 1) fixed;  G = sum h h',  C = sum h y';  scores = h (G + lambda I)^-1 C

f = [z / |z| ; q / |q|] here. G and C are sums over all samples, so they depend on no order. lambda is chosen anew at
each task as in the paper: 80 % of the task's samples, drawn at random, are fitted, the lambda in 10^-8 ... 10^8 with
the least mean square error on the others is taken, and G and C then take all of them. The paper's first phase, a
parameter-efficient tuning on the first task alone with a linear classifier that is thrown away, trains the prompt of
that task's tower (``source = "tuned"``); the other tower keeps its bare head. The paper's W has 10,000 columns; the
default is smaller, because G is kept in every checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.classifier import Growing, require_one_process, train
from mmcl_fast.methods.embedding import unit_query
from mmcl_fast.methods.prompts import PromptBank, batches, subset
from mmcl_fast.methods.relevance import ROWS

LAMBDAS = [10.0**k for k in range(-8, 9)]
FEWEST = 5  # samples of a task that lambda is chosen on; from fewer the last task's stays


@dataclass(frozen=True)
class RanPacOptions:
    source: Literal["q", "zq", "tuned"] = "tuned"  # q; the bare head's z beside it; z under the first task's prompt
    projections: int = 2000     # M
    prompt_length: int = 8
    epochs: int = 6
    batch_size: int = 32
    lr: float = 0.01
    classifier_lr: float = 0.003


def choose_lambda(fitted: Tensor, target: Tensor, held: Tensor, held_target: Tensor) -> float:
    """The lambda of ``LAMBDAS`` whose ridge solution on ``fitted`` ``[n, M]``, ``target`` ``[n, C]`` has the least
    mean square error on ``held`` ``[k, M]``, ``held_target`` ``[k, C]``; the smallest of equals. All float64."""
    if len(fitted) <= fitted.shape[1]:  # H (H'H + lambda I)^-1 H'Y = H H' (H H' + lambda I)^-1 Y: the smaller system
        left, system, right = held @ fitted.T, fitted @ fitted.T, target
    else:
        left, system, right = held, fitted.T @ fitted, fitted.T @ target
    values, vectors = torch.linalg.eigh(system)
    left, right = left @ vectors, vectors.T @ right
    errors = [F.mse_loss((left / (values.clamp(min=0) + weight)) @ right, held_target) for weight in LAMBDAS]
    return LAMBDAS[int(torch.stack(errors).argmin())]


class RanPac(Method):
    """Modality given or not makes no difference. Before the first task the scores are zero-shot; later they are -inf
    for classes never trained."""

    name = "ranpac"
    Options = RanPacOptions

    def __init__(self, encoder, options: RanPacOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        width = encoder.query_dim + (0 if options.source == "q" else encoder.dim)
        size = options.projections
        self.bank = PromptBank(encoder, options.prompt_length)  # of the first task's tower
        self.random = torch.randn(width, size, generator=self.generator(1)).to(encoder.device)
        self.gram = torch.zeros(size, size, dtype=torch.float64)
        self.cross = torch.zeros(size, 0, dtype=torch.float64)
        self.penalty = 1.0
        self._weight: Tensor | None = None

    def learn(self, data: TaskData, classes: Classes) -> None:
        require_one_process(self)
        if self.options.source == "tuned" and not self.cross.shape[1]:
            self._tune(data)
        with self.phase("statistics"):
            h = self._projected(data.tokens, data.modality).double().cpu()
            target = F.one_hot(data.labels.cpu(), len(classes)).double()
            if len(h) >= FEWEST:
                order = torch.randperm(len(h), generator=self.generator(data.index, 6))
                fitted, held = order[:int(0.8 * len(h))], order[int(0.8 * len(h)):]
                self.penalty = choose_lambda(h[fitted], target[fitted], h[held], target[held])
            self.cross = F.pad(self.cross, (0, len(classes) - self.cross.shape[1]))
            for rows, own in zip(h.split(ROWS), target.split(ROWS)):
                self.gram += rows.T @ rows
                self.cross += rows.T @ own
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
            train(self, [([prompt], o.lr), (head.parameters, o.classifier_lr)], len(plan), loss, advance=shown.advance,
                  generator=generator)
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
            lift = self.penalty * torch.eye(len(self.gram), dtype=torch.float64)
            self._weight = torch.linalg.solve(self.gram + lift, self.cross).float().to(self.random.device)
        return self._weight

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        known = self.cross.shape[1]
        if not known:
            return self.reuse.cosine_scores(self.encoder, tokens, modality, classes.embedding)
        return F.pad(self._projected(tokens, modality) @ self.weight(), (0, len(classes) - known),
                     value=float("-inf"))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        prompts = {f"prompt/{k}": v for k, v in self.bank.prompts.items()}
        return prompts | {"random": self.random, "gram": self.gram, "cross": self.cross}, {"penalty": self.penalty}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.bank.prompts = {k.removeprefix("prompt/"): v for k, v in tensors.items() if k.startswith("prompt/")}
        self.random, self.gram, self.cross = tensors["random"], tensors["gram"], tensors["cross"]
        self.penalty, self._weight = values["penalty"], None
