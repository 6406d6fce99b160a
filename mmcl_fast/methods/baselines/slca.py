"""SLCA: slow learner with classifier alignment (Zhang et al. 2023, arXiv 2303.05118).

1. The representation (here: the prompts) learns at a much smaller rate than the classifier, with cross-entropy over
   the task's classes.
2. For each class, mean and covariance of what the classifier reads are kept, N(mu_c, Sigma_c). It reads f(z), or f(u)
   with ``features = "zq"``.
3. From the second task on, the classifier alone is aligned after each task. Features are sampled from all classes'
   Gaussians. With logits H = [h_1, ..., h_t], a block h_k for each task's classes,

       loss = CE(H / (tau * |H|_mean)),   |H|_mean = (|h_1| + ... + |h_t|) / t

   so that alignment changes directions and not the size of logits.

The paper's values for step 3 are tau = 0.1, 5 epochs of 256 features for each class, and SGD with momentum. Its rate is
the paper's too.

The prompts' default rate stands for the paper's 0.0001 of a whole ViT's weights. Nobody chose it for prompts, where it
is low; ``mmcl-fast tune`` searches far above it. The classifier's rate in step 1 is the better one of 0.003 and 0.01 on
demo's validation samples, seed 0 (docs/evidence.md).

Departures from the paper and its public code:

- Step 1 uses Adam, as all methods here do.
- Old means stay where they were measured. The authors' code multiplies them by 0.9 to 1.0 by the age of the task, which
  the paper does not have.
- The paper does not have ``token_scale_shift``, nor a classifier that reads q (``features``). By default scales and
  shifts learn as slowly as prefixes.

Options: :class:`SlcaOptions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast.encoders.base import Encoder
from mmcl_fast.methods.base import Classes, TaskData
from mmcl_fast.methods.shared.classifier import cross_entropy_of_task
from mmcl_fast.methods.shared.options import LearningRate, Positive, ScaleShiftRate
from mmcl_fast.methods.shared.prompt_and_classifier import PromptAndClassifier, PromptAndClassifierOptions
from mmcl_fast.methods.shared.prompt_training import PrefixRate
from mmcl_fast.methods.shared.training_steps import optimise
from mmcl_fast.option_fields import FormerName, Symbol, Tunable

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4  # of alignment


class SlcaOptions(PromptAndClassifierOptions):
    lr: Annotated[PrefixRate, Tunable(1e-5, 1.0)] = 0.00015
    scale_shift_lr: Annotated[ScaleShiftRate, Tunable(1e-5, 0.5, needs=("token_scale_shift", (True,)))] = 0.00015
    align_epochs: int = Field(5, ge=0, description="Epochs of classifier alignment after each task from the second on")
    align_lr: Annotated[LearningRate, Tunable(0.001, 0.3)] = Field(
        0.01, description="Largest learning rate of classifier alignment"
    )
    sampled_features: Annotated[int, FormerName("draws")] = Field(
        256, ge=1, description="Features sampled for each class and epoch of classifier alignment; also its batch size"
    )
    tau: Annotated[Positive, Symbol(r"\tau")] = Field(0.1, description="Temperature of the normalised logits")


@dataclass
class ClassGaussian:
    """A class's features: count, mean ``[d]``, and factor ``[r, d]`` with covariance factor'factor, r <= d."""

    count: int
    mean: Tensor
    factor: Tensor

    @staticmethod
    def fit(x: Tensor) -> ClassGaussian:
        """Return the Gaussian of features ``[n, d]``, with the unbiased covariance."""
        mean = x.mean(0)
        return ClassGaussian(len(x), mean, _at_most_square((x - mean) / max(len(x) - 1, 1) ** 0.5))

    def merge(self, other: ClassGaussian) -> ClassGaussian:
        """Return the Gaussian of both sets of samples (Chan's merge)."""
        total, apart = self.count + other.count, other.mean - self.mean
        rows = torch.cat(
            [
                self.factor * (self.count - 1) ** 0.5,
                other.factor * (other.count - 1) ** 0.5,
                apart.unsqueeze(0) * (self.count * other.count / total) ** 0.5,
            ]
        )
        mean = self.mean + apart * (other.count / total)
        return ClassGaussian(total, mean, _at_most_square(rows / (total - 1) ** 0.5))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return ``[count, d]`` random features."""
        noise = torch.randn(count, len(self.factor), generator=generator).to(self.mean.device)
        return self.mean + noise @ self.factor


def _at_most_square(rows: Tensor) -> Tensor:
    """Return a factor of rows'rows with at most d rows, for rows ``[n, d]``: nothing beyond the rank is kept."""
    return rows if len(rows) <= rows.shape[1] else torch.linalg.qr(rows, mode="r").R


def normalise_logits(logits: Tensor, tasks: list[list[int]], tau: float) -> Tensor:
    """Return H / (tau |H|_mean) of logits ``[B, C]``; ``tasks`` holds the class ids of each block h_k."""
    size = torch.stack([logits[:, ids].norm(dim=-1) for ids in tasks]).mean(0) + 1e-7  # not 0 before training
    return logits / (tau * size.unsqueeze(1))


class Slca(PromptAndClassifier):
    """SLCA over one prompt for each tower and a linear classifier.

    Attributes:
        gaussians: class id -> the Gaussian of its features.
        tasks: class ids of each task; a class met again stays with its first task.
    """

    name = "slca"
    Options = SlcaOptions
    class_state: ClassVar[tuple[str, ...]] = ("classifier/", "gaussian/")

    def __init__(self, encoder: Encoder, options: SlcaOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.gaussians: dict[int, ClassGaussian] = {}
        self.tasks: list[list[int]] = []

    def learn(self, data: TaskData, classes: Classes) -> None:
        target = data.targets
        self.fit(
            data,
            classes,
            lambda logits, rows, parts: cross_entropy_of_task(logits, target[rows], data.classes),
            self.generator(data.index, 3),
        )
        with self.phase("statistics"):
            self._remember(data)
        if len(self.tasks) > 1:
            self._align(data.index)

    def _remember(self, data: TaskData) -> None:
        """Step 2: update the Gaussians of the task's classes."""
        x = self.features(data.tokens, data.modality)
        new = [c for c in data.classes if c not in self.gaussians]
        if new:
            self.tasks.append(new)
        for c in data.classes:
            samples = x[data.labels == c]
            if len(samples):
                fitted, known = ClassGaussian.fit(samples), self.gaussians.get(c)
                self.gaussians[c] = fitted if known is None else known.merge(fitted)

    def _align(self, index: int) -> None:
        """Step 3: align the classifier on sampled features. ``index``: of the task, for the generator."""
        o, head = self.options, self.classifier
        count = o.sampled_features
        labels = torch.tensor(list(self.gaussians), device=head.weight.device).repeat_interleave(count)
        batches = len(self.gaussians)
        sampled: dict[int, tuple[Tensor, Tensor]] = {}  # of the present epoch alone

        def epoch_features(number: int) -> tuple[Tensor, Tensor]:
            if number not in sampled:
                generator = self.generator(index, 4, number)  # by epoch: a resumed run samples the same
                x = torch.cat([g.sample(count, generator) for g in self.gaussians.values()])
                order = torch.randperm(len(x), generator=generator).to(x.device)
                sampled.clear()
                sampled[number] = x[order], labels[order]
            return sampled[number]

        def loss(step: int) -> Tensor:
            x, y = epoch_features(step // batches)
            rows = slice(step % batches * count, (step % batches + 1) * count)
            logits = x[rows] @ head.weight.T + head.bias
            return F.cross_entropy(normalise_logits(logits, self.tasks, o.tau), y[rows])

        steps = o.align_epochs * batches
        parameters = [p.requires_grad_(True) for p in head.parameters]
        optimiser = torch.optim.SGD(parameters, o.align_lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
        with self.phase("alignment", steps) as shown:
            optimise(
                "alignment",
                optimiser,
                steps,
                loss,
                schedule=schedule,
                checkpoints=self.checkpoints,
                advance=shown.advance,
                remedy=f"lower method.options.align_lr (now {o.align_lr}) and start a new run",
            )
        for p in parameters:
            p.requires_grad_(False)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, values = super().state()
        for c, g in self.gaussians.items():
            tensors |= {f"gaussian/{c}/mean": g.mean, f"gaussian/{c}/factor": g.factor}
        return tensors, {**values, "tasks": self.tasks, "counts": [[c, g.count] for c, g in self.gaussians.items()]}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        super().load_state(tensors, values)
        self.tasks = [list(ids) for ids in values["tasks"]]
        self.gaussians = {
            c: ClassGaussian(count, tensors[f"gaussian/{c}/mean"], tensors[f"gaussian/{c}/factor"])
            for c, count in values["counts"]
        }
