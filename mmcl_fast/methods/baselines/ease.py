"""EASE: expandable subspace ensemble (Zhou et al. 2024, arXiv 2403.12030), with a prompt in place of its adapter.

    training on task b:   its own prompt P_b, with a classifier that is thrown away:   loss = CE(task's classes)
    subspace b:           phi_b(x), the features under P_b.   Phi(x) = [phi_1(x), ..., phi_B(x)] is their concatenation
    prototypes:           p_{c,i} = mean of phi_i(x) over the samples x of class c

No P_b changes after its task. So a task's samples give p_{c,i} in all subspaces so far. A subspace i that came after
class c has no sample of it. There the prototype of c is synthesised from the classes j that have one. The weights are
similarities in the subspace o of the task that brought c, where all of them have prototypes:

    Sim_{c,j} = exp(cos(p_{c,o}, p_{j,o})) / sum_j' exp(cos(p_{c,o}, p_{j',o})),     p_{c,i} = sum_j Sim_{c,j} p_{j,i}

The prediction is an ensemble over all subspaces, in which a class's own one counts most:

    score_c(x) = cos(phi_o(x), p_{c,o}) + alpha sum_{i != o} cos(phi_i(x), p_{c,i})

Inference costs one head pass for each task of the sample's tower, and so does each sample of a new task.

Departures from the paper and its public code:

- The subspace of a task is a prompt of every prompted block, as for all methods here; the paper's is an adapter.
- The paper does not have ``token_scale_shift``. It gives each prompt COMM's scales and shifts of tokens too. Training
  then also drops channels and takes a least number of steps, as in COMM (``methods/shared/prompt_training.py``).
- phi is the unit vector z / |z|, or u = [z / |z| ; q / |q|] at unit length with ``features = "zq"``. The paper has the
  mean of z without normalisation. The classifier that is thrown away reads the same features. It is linear; the paper's
  is a cosine classifier.
- The paper sums over the classes j of the newest task. Its public code sums over all classes that came with subspace i
  or later, and so do we. Prototypes are synthesised again from these after each task.
- The public code divides alpha by the number of tasks. Here alpha stands as in the equation, with the paper's default.
- Each tower has its own subspaces, because its prompts fit no other tower. A sample can only get a class of its tower;
  other classes are -inf.

Options: :class:`EaseOptions`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.shared.classifier import (
    ClassifierFeatures,
    GrowingClassifier,
    classifier_input,
    require_one_process,
)
from mmcl_fast.methods.shared.embedding import unit_query
from mmcl_fast.methods.shared.options import ClassifierRate, Weight
from mmcl_fast.methods.shared.prompt_training import PromptOptions, TextRate, train_with_classifier
from mmcl_fast.methods.shared.token_scale_shift import TokenScaleShiftBank
from mmcl_fast.option_fields import Symbol, Tunable, TunableChoices


class EaseOptions(PromptOptions):
    text_lr: Annotated[TextRate, TunableChoices("auto", 0.015, 0.05, 0.15, 0.5, 1.5)] = "auto"
    features: ClassifierFeatures = "z"
    classifier_lr: ClassifierRate = 0.003
    alpha: Annotated[Weight, Symbol(r"\alpha"), Tunable(0.001, 1.0)] = Field(
        0.1, description="Weight of a class's score in the subspaces of other tasks"
    )


@dataclass
class Prototypes:
    """The mean features of a class in the first K subspaces of its tower.

    Attributes:
        own: the number of its own subspace, of the task that first brought it.
        counts: K numbers of samples; a class that comes again has seen fewer in the newer subspaces.
        means: ``[K, d]``.
    """

    own: int
    counts: list[int]
    means: Tensor

    def add(self, means: Tensor, count: int) -> Prototypes:
        """Return the prototypes of these and of ``count`` new samples.

        ``means`` ``[K', d]`` are the new samples' own, in all K' >= K subspaces.
        """
        counts = self.counts + [0] * (len(means) - len(self.counts))
        old = F.pad(self.means, (0, 0, 0, len(means) - len(self.means)))
        share = torch.tensor([count / (n + count) for n in counts], device=means.device).unsqueeze(1)
        return Prototypes(self.own, [n + count for n in counts], old + share * (means - old))


def complete_prototypes(known: list[Prototypes], subspaces: int) -> Tensor:
    """Return the prototypes of all classes in all subspaces, ``[C, S, d]``; the missing ones are synthesised.

    Args:
        known: of C classes.
        subspaces: S. Each subspace is known to one class at least.
    """
    counts = torch.tensor([len(p.means) for p in known])
    own = torch.tensor([p.own for p in known])
    out = torch.stack([F.pad(p.means, (0, 0, 0, subspaces - len(p.means))) for p in known])
    unit = F.normalize(out, dim=-1)
    for i in range(subspaces):
        given = counts > i
        for o in own[~given].unique().tolist():
            missing = ~given & (own == o)
            similarity = (unit[missing, o] @ unit[given, o].T).softmax(1)
            out[missing, i] = similarity @ out[given, i]
    return out


@dataclass
class _Ensemble:
    """The subspaces and classes of a tower.

    Attributes:
        prompts: ``[P]`` of each of its S tasks.
        prototypes: class id -> its prototypes, of C classes.
        complete: ``[C, S, d]``, in the order of ``prototypes``.
    """

    prompts: list[Tensor] = field(default_factory=list)
    prototypes: dict[int, Prototypes] = field(default_factory=dict)
    complete: Tensor = field(default_factory=lambda: torch.empty(0))

    def synthesise(self) -> None:
        """Compute ``complete``."""
        self.complete = complete_prototypes(list(self.prototypes.values()), len(self.prompts))


def ensemble_scores(features: list[Tensor], prototypes: Tensor, own: Tensor, alpha: float) -> Tensor:
    """Return the scores ``[n, C]``.

    Args:
        features: for each of S subspaces phi ``[n, d]``, unit rows.
        prototypes: ``[C, S, d]``.
        own: ``[C]`` int64, the number of each class's own subspace.
        alpha: weight of the other subspaces.
    """
    unit = F.normalize(prototypes, dim=-1)
    scores = [phi @ unit[:, i].T * torch.where(own == i, 1.0, alpha) for i, phi in enumerate(features)]
    return sum(scores[1:], start=scores[0])


class Ease(Method):
    """EASE. The given modality changes nothing. Before the first task of a tower its scores are zero-shot.

    Attributes:
        towers: tower -> its subspaces and classes.
    """

    name = "ease"
    Options = EaseOptions
    class_state: ClassVar[tuple[str, ...]] = ("prototype/",)

    def __init__(self, encoder: Encoder, options: EaseOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.head = self._new_bank().head
        self.towers: dict[str, _Ensemble] = {}

    def _new_bank(self) -> TokenScaleShiftBank:
        o = self.options
        return TokenScaleShiftBank(self.encoder, o.prompt_length, o.token_scale_shift, o.text_scale_shift)

    def learn(self, data: TaskData, classes: Classes) -> None:
        require_one_process(self)
        # Before the towers change: a task that fails leaves them as they were.
        classifier = GrowingClassifier.of(self.encoder, self.options.features)
        prompt = train_with_classifier(self, data, self._new_bank(), classifier, self.generator(data.index, 3))
        tower = self.towers.setdefault(self.encoder.tower(data.modality), _Ensemble())
        tower.prompts.append(prompt)
        with self.phase("statistics"):
            features = torch.stack(self._features(data.tokens, data.modality, tower.prompts), dim=1)  # (n, K, d)
            none = Prototypes(len(tower.prompts) - 1, [], features.new_zeros(0, features.shape[2]))
            for c in data.classes:
                samples = features[data.labels == c]
                if len(samples):
                    tower.prototypes[c] = tower.prototypes.get(c, none).add(samples.mean(0), len(samples))
            tower.synthesise()

    def _features(self, tokens: Tokens, modality: str, prompts: list[Tensor]) -> list[Tensor]:
        """phi ``[n, d]`` under each of the prompts of the samples' tower, unit rows."""
        query = unit_query(tokens) if self.options.features == "zq" else None
        size, out = self.head.prompt_size(tokens, modality), []
        for i, prompt in enumerate(prompts):
            if self.encoder.tower(modality) != "text" and len(prompt) != size:
                prompt = self.head.resize(prompt, modality, None)  # learned on another layout: its prefix alone
            if self.embedding_cache.tracing:
                z = self.head.head(tokens, prompt, modality)
            else:
                name, shares = f"subspace {i}", torch.ones(len(tokens), 1, device=self.encoder.device)
                z = self.embedding_cache.embed(self.head, tokens, modality, {name: prompt}, shares, name)
            out.append(F.normalize(classifier_input(z, query), dim=-1))
        return out

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        tower = self.towers.get(self.encoder.tower(modality))
        if tower is None:
            return self.embedding_cache.cosine_scores(self.encoder, tokens, modality, classes.embedding)
        features = self._features(tokens, modality, tower.prompts)
        own = torch.tensor([p.own for p in tower.prototypes.values()], device=tower.complete.device)
        found = ensemble_scores(features, tower.complete, own, self.options.alpha)
        out = found.new_full((found.shape[0], len(classes)), float("-inf"))
        out[:, list(tower.prototypes)] = found
        return out

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors: dict[str, Tensor] = {}
        for name, tower in self.towers.items():
            tensors |= {f"prompt/{name}/{i}": prompt for i, prompt in enumerate(tower.prompts)}
            tensors |= {f"prototype/{name}/{c}": p.means for c, p in tower.prototypes.items()}
        known = {
            name: [[c, p.own, p.counts] for c, p in tower.prototypes.items()] for name, tower in self.towers.items()
        }
        return tensors, {"prototypes": known, "tasks": {name: len(t.prompts) for name, t in self.towers.items()}}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.towers = {}
        for name, tasks in values["tasks"].items():
            prototypes = {
                c: Prototypes(own, list(counts), tensors[f"prototype/{name}/{c}"])
                for c, own, counts in values["prototypes"][name]
            }
            self.towers[name] = _Ensemble([tensors[f"prompt/{name}/{i}"] for i in range(tasks)], prototypes)
            self.towers[name].synthesise()
