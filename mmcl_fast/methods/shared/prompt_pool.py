"""The base of l2p, dualprompt and coda_prompt, which compose each sample's prefix from its query."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.shared.classifier import (
    ClassifierFeatures,
    GrowingClassifier,
    require_one_process,
    train_in_one_process,
)
from mmcl_fast.methods.shared.embedding import BATCH, Head, unit_query
from mmcl_fast.methods.shared.options import BatchSize, ClassifierRate, Epochs, MethodOptions, PromptLength
from mmcl_fast.methods.shared.prompt_and_classifier import strip_prefix
from mmcl_fast.methods.shared.prompts import batches, subset
from mmcl_fast.option_fields import Tunable

PrefixAndLoss = tuple[Tensor, Tensor | float]  # a prefix, and a further term of the loss


class PromptPoolOptions(MethodOptions):
    """Options of methods that have a pool of prompts. Each of them adds its learning rate ``lr``."""

    prompt_length: PromptLength = 8
    features: ClassifierFeatures = "z"
    epochs: Epochs = 20
    batch_size: BatchSize = 32
    classifier_lr: Annotated[ClassifierRate, Tunable(3e-5, 0.1)] = 0.0003


def cosine_distance(query: Tensor, keys: Tensor) -> Tensor:
    """Return 1 - cos of unit queries ``[B, Dq]`` and keys ``[K, Dq]``, ``[B, K]``."""
    return 1 - query @ F.normalize(keys, dim=-1).T


def train_prompts_and_classifier(
    method: Method,
    data: TaskData,
    classifier: GrowingClassifier,
    columns: list[int],
    trained: Sequence[Tensor],
    compose: Callable[[Tensor], PrefixAndLoss],
    generator: torch.Generator,
    head: Head | None = None,
    more_groups: Sequence[tuple[Sequence[Tensor], float]] = (),
) -> None:
    """Train prompts and a classifier on a task, in place: loss = CE(task's classes) + a further term.

    Args:
        method: its options have ``epochs``, ``batch_size``, ``lr`` (of ``trained``) and ``classifier_lr``.
        data: the task.
        classifier: the classifier.
        columns: the classifier's rows for ``data.classes``.
        trained: the tensors that ``compose`` makes prefixes from.
        compose: unit queries ``[B, Dq]`` -> prefix ``[J, 2, L, d]`` or ``[B, J, 2, L, d]``, and the further term.
        generator: the source of all random numbers.
        head: takes the prompts; None: the encoder's head.
        more_groups: further trained tensors, with their learning rates.
    """
    require_one_process(method)
    o, target, head = method.options, data.targets, head or method.encoder
    plan = batches(len(target), o.batch_size, o.epochs, generator)

    def loss(step: int) -> Tensor:
        rows = plan[step].to(target.device)
        batch = subset(data.tokens, rows)
        query = unit_query(batch)
        prefix, further = compose(query)
        z = head.head(batch, prefix, data.modality)
        return classifier.loss(z, target[rows], columns, query) + further

    with method.phase("prompts", len(plan)) as shown:
        train_in_one_process(
            method,
            [(trained, o.lr), *more_groups, (classifier.parameters, o.classifier_lr)],
            len(plan),
            loss,
            advance=shown.advance,
            generator=generator,
        )


def embed_with_own_prefix(
    encoder: Encoder, tokens: Tokens, modality: str, prefix: Callable[[Tensor], Tensor], one_batch: bool = False
) -> Tensor:
    """Compute z without gradient, ``[n, D]``, each sample under the prefix that is composed from its query.

    Without ``one_batch`` batches have one size and the last one is filled up, as in ``embed_all``.

    Args:
        encoder: the encoder.
        tokens: the trunk's output of n samples.
        modality: of the samples.
        prefix: unit queries ``[B, Dq]`` -> ``[B, J, 2, L, d]``.
        one_batch: all samples in one batch of any size, as an exported graph computes them. Gradients are not switched
            off then.
    """
    if one_batch:
        return encoder.head(tokens, prefix(unit_query(tokens)), modality)
    out = [torch.empty(0, encoder.dim, device=encoder.device)]
    with torch.no_grad():
        for rows in torch.arange(len(tokens), device=tokens.device).split(BATCH) if len(tokens) else ():
            batch = tokens[torch.cat([rows, rows[-1:].expand(BATCH - len(rows))])]
            out.append(encoder.head(batch, prefix(unit_query(batch)), modality)[: len(rows)])
    return torch.cat(out)


class PromptPool(Method):
    """A method with a pool of prompts for each tower, and one classifier for all classes.

    Its options are :class:`PromptPoolOptions`. The papers' q(x) comes from a forward pass of the frozen model without
    prompts. Here it is ``unit_query``, which comes with the tokens and costs no second pass. The given modality changes
    nothing. Before the first task the scores are zero-shot; later they are -inf for classes that were never trained. A
    tower without a pool uses its bare head.

    No pool has COMM's scale and shift of tokens. They belong to positions of one layout of tokens, while a pool serves
    all layouts of its tower and composes a prompt for each sample.

    Attributes:
        pools: tower -> the tensors of its pool by name.
        classifier: reads z, or z and q.
    """

    class_state: ClassVar[tuple[str, ...]] = ("classifier/",)

    def __init__(self, encoder: Encoder, options: Any, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.pools: dict[str, dict[str, Tensor]] = {}
        self.classifier = GrowingClassifier.of(encoder, options.features)

    @abstractmethod
    def prefix(self, query: Tensor, pool: dict[str, Tensor]) -> Tensor:
        """Compose prefixes ``[B, J, 2, L, d]`` from unit queries ``[B, Dq]``, each from its own query alone."""

    def fit(
        self,
        data: TaskData,
        classes: Classes,
        trained: Sequence[Tensor],
        compose: Callable[[Tensor], PrefixAndLoss],
        generator: torch.Generator,
    ) -> None:
        """Call ``train_prompts_and_classifier`` with the one classifier, which gets its new rows here."""
        self.classifier.grow(len(classes))
        train_prompts_and_classifier(self, data, self.classifier, data.classes, trained, compose, generator)

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        if not len(self.classifier):
            return self.embedding_cache.cosine_scores(self.encoder, tokens, modality, classes.embedding)
        pool = self.pools.get(self.encoder.tower(modality))
        if pool is None:
            z = self.embedding_cache.embed_with_prompt(self.encoder, tokens, modality)
        else:
            z = embed_with_own_prefix(
                self.encoder,
                tokens,
                modality,
                lambda query: self.prefix(query, pool),
                one_batch=self.embedding_cache.tracing,
            )
        return self.classifier.scores(z, len(classes), unit_query(tokens))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return (
            {f"pool/{tower}/{k}": v for tower, pool in self.pools.items() for k, v in pool.items()}
            | {f"classifier/{k}": v for k, v in self.classifier.state().items()}
        ), {}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        pools = strip_prefix("pool/", tensors)
        self.pools = {tower: strip_prefix(f"{tower}/", pools) for tower in {k.split("/")[0] for k in pools}}
        self.classifier.load_state(strip_prefix("classifier/", tensors))
