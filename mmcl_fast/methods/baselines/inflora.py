"""InfLoRA: interference-free low-rank adaptation (Liang and Li 2024, arXiv 2404.00228).

A linear layer W of the head gets one branch for each task. Only the newest A is trained:

    e = W x + sum_{j <= t} A_j B_j x,   A_t = 0 at the start,   B_t fixed

Then the update A_t B_t moves W inside the span of B_t's rows alone. B_t is designed before the task is trained:

    H_t = the layer's inputs for the task's samples, as columns
    B_t = the first r left singular vectors of (I - M M') H_t, as rows

The columns of M are an orthonormal basis of the inputs of the old tasks. So A_t B_t x = 0 for an x in their span, and
old tasks are not disturbed. After the task M grows by DualGPM (Liang and Li 2023, CVPR): by the fewest left singular
vectors of (I - M M') H_t for which

    |M M' H_t|^2 + (their squared singular values) >= energy * |H_t|^2

A basis with more than half of all dimensions is kept as its orthogonal complement, as in the paper. As there, keys and
values of attention are adapted, and the classifier learns from the task's classes alone.

Departures from the paper and its public code:

- Singular vectors come from the second moment H_t H_t' / n, which has the same ones. The public code puts this moment
  in the place of H_t, and measures energy by its squared eigenvalues. With the embedded encoder the code's 0.98 is 0.55
  to 0.68 of |H_t|^2, so the default is 0.6.
- The paper lets the energy rise with t to 1 at the last task. Here it is constant, because no method is told how many
  tasks will come.
- Rows of B_t have length 1; the public code divides them by sqrt(3).
- The rate has a warm-up and a cosine, and the classifier a rate of its own, as for all methods here.

Options: :class:`InfLoraOptions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.shared.classifier import ClassifierFeatures, GrowingClassifier, train_in_one_process
from mmcl_fast.methods.shared.low_rank import AdaptedLayers, LowRankHead
from mmcl_fast.methods.shared.options import BatchSize, ClassifierRate, Epochs, LearningRate, MethodOptions
from mmcl_fast.methods.shared.prompt_and_classifier import strip_prefix
from mmcl_fast.methods.shared.prompts import batches, subset
from mmcl_fast.option_fields import Symbol, Tunable, TunableChoices

ROUNDING = 1e-9  # share of the squared inputs that is taken for 0


class InfLoraOptions(MethodOptions):
    rank: Annotated[int, Symbol("r"), TunableChoices(4, 10, 32)] = Field(
        10, ge=1, description="Rank of a task's update of a layer"
    )
    layers: AdaptedLayers = Field(
        "key_value",
        description="The layers of the head that are adapted. key_value: the projections to keys and values of "
        "attention. all: every linear layer",
    )
    energy: Annotated[float, Symbol(r"\epsilon"), Tunable(0.3, 0.999, log=False)] = Field(
        0.6, ge=0, le=1, description="Share of the squared inputs of a task that later tasks must leave undisturbed"
    )
    epochs: Epochs = 20
    batch_size: BatchSize = 32
    lr: Annotated[LearningRate, Tunable(1e-5, 0.1)] = Field(
        0.002, description="Largest learning rate of the low-rank updates"
    )
    classifier_lr: Annotated[ClassifierRate, Tunable(1e-4, 0.1)] = 0.003
    features: ClassifierFeatures = "z"


def principal_directions(moment: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues ``[d]`` and eigenvectors ``[d, d]`` (columns) of a second moment, largest first."""
    values, vectors = torch.linalg.eigh(moment)
    return values.flip(0).clamp(min=0), vectors.flip(1)


@dataclass(frozen=True)
class OldInputs:
    """The span of the inputs of old tasks, or its orthogonal complement where that is smaller (DualGPM).

    Attributes:
        basis: ``[d, k]`` float32, orthonormal columns.
        complement: whether ``basis`` spans the complement.
    """

    basis: Tensor
    complement: bool

    def free(self) -> Tensor:
        """Return an orthonormal basis ``[d, d - dim]`` float64 of what is orthogonal to the inputs of old tasks."""
        basis = self.basis.double()
        if self.complement:
            return basis
        return torch.linalg.qr(basis, mode="complete").Q[:, basis.shape[1] :]

    def design(self, moment: Tensor, rank: int) -> Tensor:
        """Return B_t ``[r', d]`` float32, orthonormal rows that are orthogonal to the inputs of old tasks.

        Args:
            moment: H_t H_t' / n, ``[d, d]`` float64.
            rank: r; r' is less where fewer directions are free.
        """
        free = self.free()
        _, directions = principal_directions(free.T @ moment @ free)
        return (free @ directions[:, :rank]).T.float().contiguous()

    def extend(self, moment: Tensor, energy: float) -> OldInputs:
        """Return the span with the inputs of one more task; ``moment`` is as for ``design``."""
        free, total = self.free(), moment.trace()
        values, directions = principal_directions(free.T @ moment @ free)
        rest = (values.sum() - F.pad(values.cumsum(0), (1, 0))).clamp(min=0)  # left out with r more directions
        enough = rest <= (1 - energy + ROUNDING) * total
        enough[-1] = True
        count = int(enough.int().argmax())
        rotated = (free @ directions).float()
        if len(moment) - (len(values) - count) > len(moment) / 2:
            return OldInputs(rotated[:, count:].contiguous(), True)
        return OldInputs(torch.cat([self.basis, rotated[:, :count]], dim=1), False)


class InfLora(Method):
    """InfLoRA over the head's weights and a linear classifier. The given modality changes nothing.

    Attributes:
        head: the head with its weights updated. Positions below are those in ``head.weights``.
        factors: position -> [A_1, ..., A_t] ``[rows, k]`` and [B_1; ...; B_t] ``[k, width]``.
        old_inputs: position -> the span of the layer's inputs in the tasks so far.
        updates: tower -> its flat update, computed from ``factors``.
        classifier: over z.
    """

    name = "inflora"
    Options = InfLoraOptions
    class_state = ("classifier/",)

    def __init__(self, encoder: Encoder, options: InfLoraOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.head = LowRankHead(encoder, options.layers, self.name)
        self.factors: dict[int, tuple[Tensor, Tensor]] = {}
        self.old_inputs: dict[int, OldInputs] = {}
        self.updates: dict[str, Tensor] = {}
        self.classifier = GrowingClassifier.of(encoder, options.features)

    def learn(self, data: TaskData, classes: Classes) -> None:
        o, tower, generator = self.options, self.encoder.tower(data.modality), self.generator(data.index, 3)
        base, target = self.updates.get(tower), data.targets
        with self.phase("subspace"):
            down = self._design(data, base)
        up = {i: torch.zeros(self.head.weights[i].rows, len(b), device=b.device) for i, b in down.items()}
        self.classifier.grow(len(classes))
        plan = batches(len(target), o.batch_size, o.epochs, generator)

        def loss(step: int) -> Tensor:
            rows = plan[step].to(target.device)
            branch = self.head.flatten(tower, {i: a @ down[i] for i, a in up.items()})
            update = branch if base is None else base + branch
            batch = subset(data.tokens, rows)
            z = self.head.head(batch, update, data.modality)
            return self.classifier.loss(z, target[rows], data.classes, batch.query)

        with self.phase("prompts", len(plan)) as shown:
            train_in_one_process(
                self,
                [([a for a in up.values() if a.numel()], o.lr), (self.classifier.parameters, o.classifier_lr)],
                len(plan),
                loss,
                advance=shown.advance,
                generator=generator,
                loop="weights",
            )
        for i, a in up.items():
            self.factors[i] = self._join(self.factors.get(i), a, down[i])
        self._merge(tower)
        with self.phase("subspace"):
            moments = self.head.input_moments(data.tokens, self.updates[tower], data.modality)
            for i, moment in moments.items():
                self.old_inputs[i] = self._old_inputs(i).extend(moment, o.energy)

    def _old_inputs(self, position: int) -> OldInputs:
        """Return the span of a layer's old inputs, which is empty before its first task."""
        nothing = torch.zeros(self.head.weights[position].width, 0, device=self.encoder.device)
        return self.old_inputs.get(position) or OldInputs(nothing, False)

    def _design(self, data: TaskData, update: Tensor | None) -> dict[int, Tensor]:
        """Return B_t of every adapted weight by position. A resumed task keeps the ones that it began with."""
        # On another machine singular vectors may have other signs, which the trained A would not fit.
        saved = self.checkpoints.begin("subspace")
        moments = self.head.input_moments(data.tokens, update, data.modality)
        if saved is None:
            designed = {i: self._old_inputs(i).design(m, self.options.rank) for i, m in moments.items()}
        else:
            designed = {int(i): b.to(self.encoder.device) for i, b in saved[0].items()}
        self.checkpoints.end("subspace", ({str(i): b for i, b in designed.items()}, {}))
        return designed

    @staticmethod
    def _join(factors: tuple[Tensor, Tensor] | None, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of A B + ``a b``; where they outgrow the update itself, the update and I."""
        if factors is not None:
            a, b = torch.cat([factors[0], a], dim=1), torch.cat([factors[1], b])
        return (a, b) if len(b) <= b.shape[1] else (a @ b, torch.eye(b.shape[1], device=b.device))

    def _merge(self, tower: str) -> None:
        """Compute a tower's update from its factors."""
        self.updates[tower] = self.head.flatten(
            tower, {i: self.factors[i][0] @ self.factors[i][1] for i in self.head.of_tower[tower]}
        )

    def _embed(self, tokens: Tokens, modality: str) -> Tensor:
        """Return z ``[n, D]`` under the learned weights; of the frozen ones where the tower learned nothing yet."""
        update = self.updates.get(self.encoder.tower(modality))
        return self.embedding_cache.embed_with_prompt(self.head, tokens, modality, update)

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        if not len(self.classifier):
            return self.embedding_cache.cosine_scores(self.encoder, tokens, modality, classes.embedding)
        return self.classifier.scores(self._embed(tokens, modality), len(classes), tokens.query)

    def embeddings(self, tokens: Tokens, modality: str) -> dict[str, Tensor]:
        return {"under the learned weights": F.normalize(self._embed(tokens, modality), dim=-1)}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"classifier/{k}": v for k, v in self.classifier.state().items()}
        for i, (a, b) in self.factors.items():
            tensors |= {f"up/{i}": a, f"down/{i}": b, f"inputs/{i}": self.old_inputs[i].basis}
        complements = sorted(i for i, inputs in self.old_inputs.items() if inputs.complement)
        # A task under way may have added a tower that has learned nothing yet.
        of_tower = {tower: self.head.of_tower[tower] for tower in self.updates}
        return tensors, {"of_tower": of_tower, "complements": complements}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.classifier.load_state(strip_prefix("classifier/", tensors))
        self.head.of_tower = {tower: list(positions) for tower, positions in values["of_tower"].items()}
        complements = set(values["complements"])
        down, inputs = strip_prefix("down/", tensors), strip_prefix("inputs/", tensors)
        self.factors = {int(i): (a, down[i]) for i, a in strip_prefix("up/", tensors).items()}
        self.old_inputs = {int(i): OldInputs(basis, int(i) in complements) for i, basis in inputs.items()}
        self.updates = {}
        for tower in self.head.of_tower:
            self._merge(tower)
