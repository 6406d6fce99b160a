"""S-Prompts (Wang, Huang and Hong 2022, arXiv 2207.12819), with prompts for the sample and a linear classifier (the
paper's S-iPrompts; its S-liPrompts learn the class texts' prompts too).

    training: each domain has its own prompt and classifier, learned from its data alone:   loss = CE(its classes)
    testing:  q(x) -> the nearest of all domains' centroids (K-means of q over its training data) -> its domain's
              prompt and classifier

A domain is a task: the paper's sessions bring one each. Domains share nothing, so nothing learned ever changes, and a
sample can only be taken for a class of the domain found for it: others are -inf. With the modality given, the
centroids of its domains alone compete; else those of all domains whose files go through the sample's tower. q, in the
paper the frozen model's output, is ``unit_query`` here; it comes with the tokens. Distances are Euclidean, those of
K-means (the public code finds the nearest centroid by the sum of absolute differences).

K = 5 is the paper's. Its prompts (length 10) are prepended to the input; here they are prefix keys and values of every
prompted block, of the length that all methods have. ``token_rows``, which the paper does not have, gives each domain
COMM's rows beside them, for a comparison in which both have prompts of one kind (mmcl_fast/methods/shared/token_scale_shift.py).
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
from mmcl_fast.methods.shared.classifier import Growing
from mmcl_fast.methods.shared.embedding import unit_query
from mmcl_fast.methods.shared.options import (
    BatchSize,
    ClassifierRate,
    Epochs,
    LearningRate,
    MethodOptions,
    PromptLength,
    ScaleShiftRate,
    TextScaleShift,
    TokenScaleShift,
)
from mmcl_fast.methods.shared.prompt_and_classifier import under
from mmcl_fast.methods.shared.prompt_pool import fit
from mmcl_fast.methods.shared.token_scale_shift import RowBank, RowHead
from mmcl_fast.option_fields import Symbol

ROUNDS = 100  # of K-means, which mostly ends earlier


class SPromptsOptions(MethodOptions):
    prompt_length: PromptLength = 8
    token_scale_shift: TokenScaleShift = False
    text_scale_shift: TextScaleShift = False
    epochs: Epochs = 20
    batch_size: BatchSize = 32
    lr: LearningRate = Field(0.1, description="Largest learning rate of the prefixes")
    scale_shift_lr: ScaleShiftRate = 0.01
    classifier_lr: ClassifierRate = 0.003
    centroids: Annotated[int, Symbol("K")] = Field(5, ge=1, description="K-means centroids of each task's queries")


def far(x: Tensor, centroids: Tensor) -> Tensor:
    """Euclidean distances ``[m, K]``; a row's are the same bits beside any others."""
    return torch.cdist(x, centroids, compute_mode="donot_use_mm_for_euclid_dist")


def k_means(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Centroids ``[min(count, distinct rows), n]`` of x ``[m, n]`` by Lloyd's rounds from a k-means++ start (Arthur
    and Vassilvitskii 2007)."""
    x = x.double()
    centroids = x[torch.randint(len(x), (1,), generator=generator).to(x.device)]
    while len(centroids) < count:
        square = far(x, centroids).square().amin(1).cpu()
        if not square.any():
            break
        centroids = torch.cat([centroids, x[torch.multinomial(square, 1, generator=generator).to(x.device)]])
    for _ in range(ROUNDS):
        nearest = F.one_hot(far(x, centroids).argmin(1), len(centroids)).double()
        size = nearest.sum(0).unsqueeze(1)
        moved = torch.where(size > 0, nearest.T @ x / size.clamp(min=1), centroids)
        if torch.equal(moved, centroids):
            break
        centroids = moved
    return centroids.float()


@dataclass
class _Domain:
    modality: str
    classes: list[int]
    prompt: Tensor  # [P], see RowHead
    classifier: Growing  # rows in the order of classes
    centroids: Tensor  # [K, Dq]


class SPrompts(Method):
    """Before a tower's first domain its scores are zero-shot."""

    name = "s_prompts"
    Options = SPromptsOptions

    def __init__(self, encoder: Encoder, options: SPromptsOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.head = RowHead(encoder, options.prompt_length, options.token_scale_shift, options.text_scale_shift)
        self.domains: list[_Domain] = []

    def learn(self, data: TaskData, classes: Classes) -> None:
        o, generator = self.options, self.generator(data.index, 3)
        bank = RowBank(self.encoder, o.prompt_length, o.token_scale_shift, o.text_scale_shift)
        bank.meet(data.tokens, data.modality)
        prefix, rows = parts = self.head.parts(bank.fresh(data.modality, generator), data.modality)
        classifier = Growing(self.encoder.dim, self.encoder.device)
        classifier.grow(len(data.classes))
        with self.phase("statistics"):
            centroids = k_means(unit_query(data.tokens), o.centroids, generator)
        columns = list(range(len(data.classes)))
        fit(
            self,
            data,
            classifier,
            columns,
            [prefix],
            lambda query: (torch.cat(parts), 0.0),
            generator,
            self.head,
            beside=[([rows], o.scale_shift_lr)] if len(rows) else [],
        )
        self.domains.append(_Domain(data.modality, list(data.classes), torch.cat(parts), classifier, centroids))

    def _candidates(self, modality: str, given: bool) -> list[int]:
        """Numbers of the domains that compete for a sample."""
        told = [i for i, domain in enumerate(self.domains) if domain.modality == modality]
        if given and told:
            return told
        tower = self.encoder.tower(modality)
        return [i for i, domain in enumerate(self.domains) if self.encoder.tower(domain.modality) == tower]

    def _nearest(self, query: Tensor, candidates: list[int]) -> Tensor:
        """The place in ``candidates`` of each unit query's domain, ``[n]``."""
        return torch.stack([far(query, self.domains[i].centroids).amin(1) for i in candidates], 1).argmin(1)

    def _prompts(self, modality: str, candidates: list[int]) -> dict[str, Tensor]:
        """The domains' prompts, of one size."""
        size = max((len(d.prompt) for d in self.domains if d.modality == modality), default=None)
        chosen = ((i, self.domains[i]) for i in candidates)
        return {str(i): self.head.fitted(d.prompt, modality, size, own=d.modality == modality) for i, d in chosen}

    @property
    def routes(self) -> bool:
        return bool(self.domains)

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        candidates = self._candidates(modality, given)
        if not candidates:
            return self.reuse.cosine_scores(self.encoder, tokens, modality, classes.embedding)
        domains = [self.domains[i] for i in candidates]
        chosen = self._nearest(unit_query(tokens), candidates)
        z = self.reuse.embed(
            self.head,
            tokens,
            modality,
            self._prompts(modality, candidates),
            F.one_hot(chosen, len(domains)).float(),
            "given" if given else "agnostic",
        )
        out = z.new_full((z.shape[0], len(classes)), float("-inf"))
        for place, domain in enumerate(domains):
            own = domain.classifier.scores(z, len(domain.classes))
            out[:, domain.classes] = torch.where((chosen == place).unsqueeze(1), own, out[:, domain.classes])
        return out

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors: dict[str, Tensor] = {}
        for i, domain in enumerate(self.domains):
            tensors |= {f"{i}/{k}": v for k, v in domain.classifier.state().items()}
            tensors |= {f"{i}/prompt": domain.prompt, f"{i}/centroids": domain.centroids}
        return tensors, {"domains": [[domain.modality, domain.classes] for domain in self.domains]}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.domains = []
        for i, (modality, classes) in enumerate(values["domains"]):
            own = under(f"{i}/", tensors)
            classifier = Growing(self.encoder.dim, self.encoder.device)
            classifier.load_state(own)
            prompt = self.head.kept(own["prompt"], modality)
            self.domains.append(_Domain(modality, classes, prompt, classifier, own["centroids"]))
