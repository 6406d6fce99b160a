"""Upper bound: one prompt per modality and one linear classifier on [z ; q], trained on all tasks' data at once.

It keeps every task's tokens, so it is no continual learner. It is fitted when it is first asked for scores, after
the last task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData, embed_all, unit_query
from mmcl_fast.methods.prompts import PromptBank, batches, subset
from mmcl_fast.methods.relevance import Ridge


@dataclass(frozen=True)
class JointOptions:
    prompt_length: int = 8
    epochs: int = 8
    batch_size: int = 32
    lr: float = 0.01
    classifier_lr: float = 0.003
    penalty: float = 0.005
    scale: float = 20.0   # softmax temperature of the ridge-initialised scores


class Joint(Method):
    name = "joint"
    Options = JointOptions
    cumulative = True

    def __init__(self, encoder, options: JointOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.tasks: list[TaskData] = []
        self.bank = PromptBank(encoder, options.prompt_length)
        self.weight: Tensor | None = None   # [D + Dq + 1, C]

    def learn(self, data: TaskData, classes: Classes) -> None:
        self.tasks.append(data)
        self.weight = None

    def _source(self, z: Tensor, query: Tensor) -> Tensor:
        return F.pad(torch.cat([F.normalize(z, dim=-1), query], dim=1), (0, 1), value=1.0)

    def fit(self, classes: Classes) -> None:
        """Train prompts and classifier on everything learned so far."""
        o, generator = self.options, self.generator(len(self.tasks), 3)
        for data in self.tasks:
            if data.modality not in self.bank.prompts:
                self.bank.prompts[data.modality] = self.bank.fresh(data.modality, generator)
        ridge = Ridge(self.encoder.dim + self.encoder.query_dim, o.penalty)
        for data in self.tasks:
            z = embed_all(self.encoder, data.tokens, data.modality, self.bank.prompts[data.modality])
            ridge.add(self._source(z, unit_query(data.tokens))[:, :-1], data.labels, len(classes))
        lift = o.penalty * ridge.gram.diagonal().mean() * torch.eye(len(ridge.gram), dtype=torch.float64)
        weight = torch.linalg.solve(ridge.gram + lift, ridge.cross).float().to(self.tasks[0].labels.device)
        weight.requires_grad_(True)
        prompts = {m: p.requires_grad_(True) for m, p in self.bank.prompts.items()}
        optimiser = torch.optim.Adam([{"params": list(prompts.values()), "lr": o.lr},
                                      {"params": [weight], "lr": o.classifier_lr}])
        plan = [(t, rows) for t, data in enumerate(self.tasks)
                for rows in batches(len(data.labels), o.batch_size, o.epochs, generator)]
        order = torch.randperm(len(plan), generator=generator).tolist()
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, len(plan))
        with self.phase("prompts", len(plan)) as shown:
            for step in order:
                data, rows = self.tasks[plan[step][0]], plan[step][1]
                part = subset(data.tokens, rows)
                z = self.encoder.head(part, prompts[data.modality], data.modality)
                scores = o.scale * self._source(z, unit_query(part)) @ weight
                optimiser.zero_grad()
                F.cross_entropy(scores, data.labels[rows]).backward()
                optimiser.step()
                schedule.step()
                shown.advance()
        self.bank.prompts = {m: p.detach() for m, p in prompts.items()}
        self.weight = weight.detach()

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        if self.weight is None:
            if not self.tasks:
                return torch.zeros(len(tokens), len(classes))
            self.fit(classes)
        z = embed_all(self.encoder, tokens, modality, self.bank.prompts.get(modality))
        out = self._source(z, unit_query(tokens)) @ self.weight
        return F.pad(out, (0, len(classes) - out.shape[1]), value=float("-inf"))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"prompt/{m}": p for m, p in self.bank.prompts.items()}
        return tensors | ({} if self.weight is None else {"weight": self.weight}), {}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.bank.prompts = {k.removeprefix("prompt/"): v for k, v in tensors.items() if k.startswith("prompt/")}
        self.weight = tensors.get("weight")
