"""S-Prompts (Wang, Huang and Hong 2022, arXiv 2207.12819), with prompts for the sample and a linear classifier.

This is the paper's S-iPrompts; its S-liPrompts learn prompts for the class texts too.

    training: each domain has its own prompt and classifier, learned from its data alone:   loss = CE(its classes)
    testing:  q(x) -> the nearest of all domains' centroids (K-means of q over its training data) -> its domain's
              prompt and classifier

A domain is a task, as each session of the paper brings one domain. Domains share nothing, so nothing learned ever
changes. A sample can only get a class of the domain that is found for it; other classes are -inf. With the modality
given, the centroids of its domains alone compete; else the centroids of all domains of the sample's tower.

Departures from the paper and its public code:

- q is the frozen model's output in the paper. Here it is ``unit_query``, which comes with the tokens.
- Distances to centroids are Euclidean, as in K-means. The public code uses the sum of absolute differences.
- The paper prepends prompts of length 10 to the input. Here they are prefix keys and values of every prompted block, of
  the length that all methods have. K = 5 is the paper's.
- The paper does not have ``token_scale_shift``. It gives each domain COMM's scales and shifts of tokens too, for a
  comparison in which both methods have prompts of one kind. Training then also drops channels and takes a least number
  of steps, as in COMM (``methods/shared/prompt_training.py``). Set ``text_lr`` for a rate of texts of its own.
- In the paper a domain's classifier reads z alone. Here it can read q too (``features``).

Options: :class:`SPromptsOptions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.shared.classifier import ClassifierFeatures, GrowingClassifier, require_one_process
from mmcl_fast.methods.shared.embedding import unit_query
from mmcl_fast.methods.shared.options import ClassifierRate
from mmcl_fast.methods.shared.prompt_and_classifier import strip_prefix
from mmcl_fast.methods.shared.prompt_training import PromptOptions, TextRate, train_with_classifier
from mmcl_fast.methods.shared.token_scale_shift import TokenScaleShiftBank, TokenScaleShiftHead
from mmcl_fast.option_fields import Symbol, Tunable, TunableChoices

ROUNDS = 100  # most rounds of K-means; it mostly ends earlier


class SPromptsOptions(PromptOptions):
    text_lr: Annotated[TextRate, TunableChoices("auto", 0.015, 0.05, 0.15, 0.5, 1.5)] = "auto"
    features: ClassifierFeatures = "z"
    classifier_lr: Annotated[ClassifierRate, Tunable(1e-4, 0.1)] = 0.003
    centroids: Annotated[int, Symbol("K")] = Field(5, ge=1, description="K-means centroids of each task's queries")


def distances(x: Tensor, centroids: Tensor) -> Tensor:
    """Return Euclidean distances ``[m, K]``."""
    # Computed without a matrix product: then a row's distances are the same bits whatever the other rows are.
    return torch.cdist(x, centroids, compute_mode="donot_use_mm_for_euclid_dist")


def k_means(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return centroids ``[min(count, distinct rows), n]`` of x ``[m, n]``.

    Lloyd's rounds begin with a k-means++ start (Arthur and Vassilvitskii 2007).
    """
    x = x.double()
    centroids = x[torch.randint(len(x), (1,), generator=generator).to(x.device)]
    while len(centroids) < count:
        square = distances(x, centroids).square().amin(1).cpu()
        if not square.any():
            break
        centroids = torch.cat([centroids, x[torch.multinomial(square, 1, generator=generator).to(x.device)]])
    for _ in range(ROUNDS):
        nearest = F.one_hot(distances(x, centroids).argmin(1), len(centroids)).double()
        size = nearest.sum(0).unsqueeze(1)
        # A centroid without samples stays where it is.
        moved = torch.where(size > 0, nearest.T @ x / size.clamp(min=1), centroids)
        if torch.equal(moved, centroids):
            break
        centroids = moved
    return centroids.float()


@dataclass
class _Domain:
    """The prompt, classifier and centroids that one task learned.

    Attributes:
        modality: of its samples.
        classes: ids of its classes.
        prompt: ``[P]``, see ``TokenScaleShiftHead``.
        classifier: rows in the order of ``classes``.
        centroids: ``[K, Dq]``.
    """

    modality: str
    classes: list[int]
    prompt: Tensor
    classifier: GrowingClassifier
    centroids: Tensor


class SPrompts(Method):
    """S-Prompts. Before the first domain of a tower its scores are zero-shot."""

    name = "s_prompts"
    Options = SPromptsOptions
    class_state: ClassVar[tuple[str, ...]] = ("classifier/",)

    def __init__(self, encoder: Encoder, options: SPromptsOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        o = options
        self.head = TokenScaleShiftHead(encoder, o.prompt_length, o.token_scale_shift, o.text_scale_shift)
        self.domains: list[_Domain] = []

    def learn(self, data: TaskData, classes: Classes) -> None:
        require_one_process(self)
        o, generator = self.options, self.generator(data.index, 3)
        with self.phase("statistics"):
            centroids = k_means(unit_query(data.tokens), o.centroids, generator)
        bank = TokenScaleShiftBank(self.encoder, o.prompt_length, o.token_scale_shift, o.text_scale_shift)
        classifier = GrowingClassifier.of(self.encoder, o.features)
        prompt = train_with_classifier(self, data, bank, classifier, generator)
        self.domains.append(_Domain(data.modality, list(data.classes), prompt, classifier, centroids))

    def _candidates(self, modality: str, given: bool) -> list[int]:
        """Numbers of the domains that compete for a sample."""
        same_modality = [i for i, domain in enumerate(self.domains) if domain.modality == modality]
        if given and same_modality:
            return same_modality
        tower = self.encoder.tower(modality)
        return [i for i, domain in enumerate(self.domains) if self.encoder.tower(domain.modality) == tower]

    def _nearest(self, query: Tensor, candidates: list[int]) -> Tensor:
        """``[n]``: for each unit query, the position of its domain in ``candidates``."""
        near = [distances(query, self.domains[i].centroids).amin(1) for i in candidates]
        return torch.stack(near, 1).argmin(1)

    def _prompts(self, modality: str, candidates: list[int]) -> dict[str, Tensor]:
        """Number of a domain -> its prompt, all of one size."""
        size = max((len(d.prompt) for d in self.domains if d.modality == modality), default=None)
        chosen = ((i, self.domains[i]) for i in candidates)
        return {
            str(i): self.head.resize(d.prompt, modality, size, same_modality=d.modality == modality) for i, d in chosen
        }

    @property
    def uses_given_modality(self) -> bool:
        return bool(self.domains)

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        candidates = self._candidates(modality, given)
        if not candidates:
            return self.embedding_cache.cosine_scores(self.encoder, tokens, modality, classes.embedding)
        domains = [self.domains[i] for i in candidates]
        query = unit_query(tokens)
        chosen = self._nearest(query, candidates)
        z = self.embedding_cache.embed(
            self.head,
            tokens,
            modality,
            self._prompts(modality, candidates),
            F.one_hot(chosen, len(domains)).float(),
            "given" if given else "agnostic",
        )
        out = z.new_full((z.shape[0], len(classes)), float("-inf"))
        for position, domain in enumerate(domains):
            scores = domain.classifier.scores(z, len(domain.classes), query)
            out[:, domain.classes] = torch.where((chosen == position).unsqueeze(1), scores, out[:, domain.classes])
        return out

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors: dict[str, Tensor] = {}
        for i, domain in enumerate(self.domains):
            tensors |= {f"classifier/{i}/{k}": v for k, v in domain.classifier.state().items()}
            tensors |= {f"domain/{i}/prompt": domain.prompt, f"domain/{i}/centroids": domain.centroids}
        return tensors, {"domains": [[domain.modality, domain.classes] for domain in self.domains]}

    def migrate_state(
        self, tensors: dict[str, Tensor], values: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Name the tensors by their kind; older versions named them by the domain's number alone."""
        kinds = {"weight": "classifier", "bias": "classifier", "prompt": "domain", "centroids": "domain"}
        return {
            f"{kinds[name.split('/')[1]]}/{name}" if name[0].isdigit() else name: tensor
            for name, tensor in tensors.items()
        }, values

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.domains = []
        for i, (modality, classes) in enumerate(values["domains"]):
            saved = strip_prefix(f"domain/{i}/", tensors)
            classifier = GrowingClassifier.of(self.encoder, self.options.features)
            classifier.load_state(strip_prefix(f"classifier/{i}/", tensors))
            prompt = self.head.check_shape(saved["prompt"], modality)
            self.domains.append(_Domain(modality, classes, prompt, classifier, saved["centroids"]))
