"""RanPAC: random projections and a ridge classifier (McDonnell et al. 2023, arXiv 2307.02251).

    h = max(0, u W), W ~ N(0, 1) fixed;  G = sum h h',  C = sum h y';  scores = h (G + lambda I)^-1 C

u = [z / |z| ; q / |q|] by default. G and C are sums over all samples, so the order of the tasks does not matter. They
are kept as a triangular factor (:mod:`mmcl_fast.methods.shared.triangular_ridge`), which is smaller than G while there
are fewer samples than features.

The first phase of the paper tunes the encoder on the first task alone, by scales and shifts of features (SSF). A linear
classifier is trained with them and thrown away. Here each modality learns a prompt on its first task (``adaptation``).
By default the prompt is a prefix with scales and shifts of the trunk's tokens.

Departures from the paper:

- lambda is chosen after each task by generalised cross-validation from G and C. The paper fits 80 % of the last task's
  samples and takes the lambda of 10^-8 ... 10^8 with the least squared error on the others (``penalty = "held_out"``).
  Its result depends on which task comes last, and says little for a task of few samples.
- The paper adapts on one task of one modality. Later modalities would then have features that nothing adapted.
- W has the paper's 10,000 columns. ``projections = "auto"`` also tries 2,000 and 5,000, and takes the width with the
  least value of generalised cross-validation. A smaller width is the first columns of the same W.

Options: :class:`RanPacOptions`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from mmcl_fast.encoders.base import Encoder
from mmcl_fast.errors import RunError
from mmcl_fast.methods.base import TaskData
from mmcl_fast.methods.shared.classifier import require_one_process
from mmcl_fast.methods.shared.feature_classifier import FeatureClassifier
from mmcl_fast.methods.shared.features import Adaptation, FeatureOptions, Features
from mmcl_fast.methods.shared.options import TINY
from mmcl_fast.methods.shared.ridge_regression import BLOCK_ROWS
from mmcl_fast.methods.shared.triangular_ridge import RidgeSystem, TriangularMoments
from mmcl_fast.option_fields import FormerName, Symbol, TunableChoices

LAMBDAS = [10.0**k for k in range(-8, 9)]  # the paper's candidates
WIDTHS = (2_000, 5_000, 10_000)  # the widths that projections = "auto" tries
FORMER_PENALTIES = {"all": "auto", "task": "held_out"}  # values of the former option held_out


class RanPacOptions(FeatureOptions):
    """Options of RanPAC. The former options ``source``, with "tuned", and ``held_out`` are taken too."""

    features: Annotated[Features, FormerName("source")] = "zq"
    adaptation: Annotated[Adaptation, TunableChoices("none", "prefix", "scale_shift")] = "scale_shift"
    projections: Annotated[Literal["auto"] | Annotated[int, Field(ge=1, le=20_000)], Symbol("M")] = Field(
        10_000, description="Random features. auto: 2,000, 5,000 or 10,000, chosen by generalised cross-validation"
    )
    penalty: Annotated[
        Literal["auto", "held_out"] | Annotated[float, Field(ge=TINY)],
        Symbol(r"\lambda"),
        FormerName("held_out"),
        TunableChoices("auto", "held_out"),
    ] = Field(
        "auto",
        description="Ridge penalty, relative to the mean of the Gram matrix's diagonal. auto: by generalised "
        "cross-validation. held_out: the least squared error on held-out samples",
    )

    @model_validator(mode="before")
    @classmethod
    def _take_former_values(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values, former = dict(values), "source" in values
        for name in ("penalty", "held_out"):
            if isinstance(values.get(name), str) and values[name] in FORMER_PENALTIES:
                values[name], former = FORMER_PENALTIES[values[name]], True
        for name in ("features", "source"):
            if values.get(name) == "tuned":
                values[name] = "zq"
                values.setdefault("adaptation", "prefix")
        if former:  # then features were adapted with source = "tuned" alone
            values.setdefault("adaptation", "none")
        return values


class RanPac(FeatureClassifier):
    """RanPAC; see the module's docstring.

    Attributes:
        random: W ``[width, M]``.
        moments: the factor of G, and C, over M features.
        penalty: lambda as it was chosen on held-out samples; 1 before.
    """

    name = "ranpac"
    class_state = ("targets",)
    Options = RanPacOptions

    def __init__(self, encoder: Encoder, options: RanPacOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.widths = WIDTHS if options.projections == "auto" else (options.projections,)
        size = max(self.widths)
        self.random = torch.randn(self.reader.width, size, generator=self.generator(1)).to(encoder.device)
        self.moments = TriangularMoments(size, encoder.device)
        self.penalty = 1.0
        self._weight: Tensor | None = None

    @property
    def count(self) -> Tensor:
        """1 for each class that has samples, else 0, ``[C]`` int64."""
        return (self.moments.targets != 0).any(0).long()

    def add(self, u: Tensor, data: TaskData, classes: int) -> None:
        require_one_process(self)
        self._add(self.moments, u, data.labels, classes)
        if self.options.penalty == "held_out":
            order = torch.randperm(len(u), generator=self.generator(data.index, 6)).to(u.device)
            fitted, held = order.split([len(u) - len(u) // 5, len(u) // 5])
            if len(held):  # fewer than 5 samples hold none out: lambda stays
                moments = TriangularMoments(self.random.shape[1], u.device)
                self._add(moments, u[fitted], data.labels[fitted], classes)
                self.penalty = self._least_error(moments.system(), u[held], data.labels[held], classes)
        self._weight = None

    def _add(self, moments: TriangularMoments, u: Tensor, labels: Tensor, classes: int) -> None:
        parts = zip(u.split(BLOCK_ROWS), labels.split(BLOCK_ROWS))
        moments.add(((self.random_features(rows), y) for rows, y in parts), len(u), classes)

    def _least_error(self, system: RidgeSystem, u: Tensor, labels: Tensor, classes: int) -> float:
        """Return the lambda of ``LAMBDAS`` whose solution has the least squared error on samples."""
        h, y = self.random_features(u).double(), F.one_hot(labels, classes).double().to(u.device)
        errors = [float((h @ system.weight(penalty) - y).square().sum()) for penalty in LAMBDAS]
        return LAMBDAS[errors.index(min(errors))]

    def random_features(self, u: Tensor, width: int | None = None) -> Tensor:
        """Return h ``[n, width]`` float32 of features u ``[n, d]``; all M where ``width`` is None."""
        return (u @ self.random[:, :width]).relu()

    def weight(self) -> Tensor:
        """Return (G + lambda I)^-1 C ``[k, C]`` float32, for the first k random features."""
        if self._weight is None:
            best = None
            for width in self.widths:
                system = self.moments.system(width)
                penalty = self._penalty(system)
                value = system.gcv(penalty) if len(self.widths) > 1 else 0.0
                if best is None or value < best[0]:
                    best = value, system.weight(penalty).float()
            assert best is not None
            self._weight = best[1]
        return self._weight

    def _penalty(self, system: RidgeSystem) -> float:
        if self.options.penalty == "auto":
            return system.best_penalty()
        if self.options.penalty == "held_out":
            return self.penalty
        # G and R R' have the same trace.
        return self.options.penalty * system.scale * len(system.factor) / system.factor.shape[1]

    def class_scores(self, u: Tensor) -> Tensor:
        weight = self.weight()
        # A graph for export has any number of samples, so it can't be cut into blocks.
        parts = [u] if self.embedding_cache.tracing else u.split(BLOCK_ROWS)
        return torch.cat([self.random_features(rows, len(weight)) @ weight for rows in parts])

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, values = super().state()
        # W is stored: another version of torch may draw other numbers from the same seed.
        tensors |= {"random": self.random, "factor": self.moments.factor, "targets": self.moments.targets}
        return tensors, values | {"samples": self.moments.count, "penalty": self.penalty}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        super().load_state(tensors, values)
        self.random, self.penalty, self._weight = tensors["random"], values["penalty"], None
        self.moments.factor, self.moments.targets = tensors["factor"], tensors["targets"]
        self.moments.count = values["samples"]

    def migrate_state(
        self, tensors: dict[str, Tensor], values: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Convert the moments of fitted and of held-out samples of earlier versions into one factor.

        Raises:
            RunError: the state has a prompt, which served all modalities of its tower then.
        """
        if "fitted/gram" not in tensors:
            return tensors, values
        if self.reader.adapts:
            raise RunError(
                'ranpac: its state was learned by an earlier version with source = "tuned", with one prompt for a '
                "tower; prompts belong to modalities now, so learn the run anew"
            )
        gram, cross = (tensors[f"fitted/{name}"] + tensors[f"held/{name}"] for name in ("gram", "cross"))
        moments = TriangularMoments(len(gram), gram.device)
        moments.load_moments(gram, cross, sum(values["counts"]))
        device = tensors["random"].device
        tensors = {"random": tensors["random"]} | {
            "factor": moments.factor.to(device),
            "targets": moments.targets.to(device),
        }
        return tensors, {"samples": moments.count, "penalty": values["penalty"]}
