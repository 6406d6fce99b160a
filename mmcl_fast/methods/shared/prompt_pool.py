"""The base of l2p, dualprompt and coda_prompt, which compose each sample's prefix from its query."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.shared.classifier import ClassifierFeatures, GrowingClassifier, train_in_one_process
from mmcl_fast.methods.shared.embedding import BATCH, Head, unit_query
from mmcl_fast.methods.shared.options import (
    BatchSize,
    ClassifierRate,
    Epochs,
    LearningRate,
    MethodOptions,
    PromptLength,
)
from mmcl_fast.methods.shared.prompt_and_classifier import strip_prefix
from mmcl_fast.methods.shared.prompt_training import channel_dropout, drop_random_channels, step_batches, step_count
from mmcl_fast.methods.shared.prompts import subset
from mmcl_fast.option_fields import Tunable

PromptsAndLoss = tuple[Tensor, Tensor | float]  # prompts, and a further term of the loss
PoolTextRate = Annotated[
    Literal["auto"] | LearningRate,
    Field(description="Largest learning rate of the text tower's pool. auto: the option lr"),
]


class PromptPoolOptions(MethodOptions):
    """Options of methods with a pool of prompts. Each adds ``lr``, ``channel_dropout`` and ``least_steps``."""

    prompt_length: PromptLength = 8
    features: ClassifierFeatures = "z"
    epochs: Epochs = 20
    batch_size: BatchSize = 32
    text_lr: PoolTextRate = "auto"
    classifier_lr: Annotated[ClassifierRate, Tunable(3e-5, 0.1)] = 0.0003


def cosine_distance(query: Tensor, keys: Tensor) -> Tensor:
    """Return 1 - cos of unit queries ``[B, Dq]`` and keys ``[K, Dq]``, ``[B, K]``."""
    return 1 - query @ F.normalize(keys, dim=-1).T


def embed_with_own_prefix(
    head: Head, tokens: Tokens, modality: str, prompts: Callable[[Tensor], Tensor], one_batch: bool = False
) -> Tensor:
    """Compute z without gradient, ``[n, D]``, each sample under the prompt that is composed from its query.

    Without ``one_batch`` batches have one size and the last one is filled up, as in ``embed_all``.

    Args:
        head: takes the prompts, such as the encoder.
        tokens: the trunk's output of n samples.
        modality: of the samples.
        prompts: unit queries ``[B, Dq]`` -> ``[B, ...]``, as ``head`` takes them.
        one_batch: all samples in one batch of any size, as an exported graph computes them. Gradients are not switched
            off then.
    """
    if one_batch:
        return head.head(tokens, prompts(unit_query(tokens)), modality)
    out = [torch.empty(0, head.dim, device=head.device)]
    with torch.no_grad():
        for rows in torch.arange(len(tokens), device=tokens.device).split(BATCH) if len(tokens) else ():
            batch = tokens[torch.cat([rows, rows[-1:].expand(BATCH - len(rows))])]
            out.append(head.head(batch, prompts(unit_query(batch)), modality)[: len(rows)])
    return torch.cat(out)


class PromptPool(Method):
    """A method with a pool of prompts for each tower, and one classifier for all classes.

    Its options are :class:`PromptPoolOptions`. The papers' q(x) comes from a forward pass of the frozen model without
    prompts. Here it is ``unit_query``, which comes with the tokens and costs no second pass. The given modality changes
    nothing. Before the first task the scores are zero-shot; later they are -inf for classes that were never trained. A
    tower without a pool uses its bare head.

    Of COMM's aids a pool has dropped channels, a least number of steps and a rate for texts. Its rates are absolute,
    because its keys have the same one. L2P and CODA-Prompt have no scale and shift of tokens. They compose one prompt
    of several, learned from samples of all layouts of tokens, while a scale and shift belongs to one layout.

    Attributes:
        head: takes the prompts.
        pools: tower -> the tensors of its pool by name.
        classifier: reads z, or z and q.
    """

    class_state: ClassVar[tuple[str, ...]] = ("classifier/",)

    def __init__(self, encoder: Encoder, options: Any, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.head: Head = encoder
        self.pools: dict[str, dict[str, Tensor]] = {}
        self.classifier = GrowingClassifier.of(encoder, options.features)

    @abstractmethod
    def prefix(self, query: Tensor, pool: dict[str, Tensor]) -> Tensor:
        """Compose prefixes ``[B, J, 2, L, d]`` from unit queries ``[B, Dq]``, each from its own query alone."""

    def prompts(self, query: Tensor, pool: dict[str, Tensor], tokens: Tokens, modality: str) -> Tensor:
        """Compose prompts as ``head`` takes them: prefixes alone, unless a method adds something.

        Args:
            query: ``[B, Dq]``, unit rows.
            pool: of the samples' tower.
            tokens: of samples of the same layout.
            modality: of the samples.
        """
        return self.prefix(query, pool)

    def fit(
        self,
        data: TaskData,
        classes: Classes,
        trained: Sequence[Tensor],
        compose: Callable[[Tensor], PromptsAndLoss],
        generator: torch.Generator,
        more_groups: Sequence[tuple[Sequence[Tensor], float]] = (),
    ) -> None:
        """Train prompts and the classifier on a task, in place: loss = CE(task's classes) + a further term.

        Args:
            data: the task.
            classes: all classes, the task's included. The classifier gets their rows here.
            trained: the tensors that ``compose`` makes prompts from.
            compose: unit queries ``[B, Dq]`` -> prompts as ``head`` takes them, and the further term.
            generator: the source of all random numbers.
            more_groups: further trained tensors, with their learning rates.
        """
        o, target, classifier = self.options, data.targets, self.classifier
        classifier.grow(len(classes))
        plan = step_batches(len(target), o.batch_size, step_count(len(target), o), generator)
        own_rate = self.encoder.tower(data.modality) == "text" and o.text_lr != "auto"
        dropped = channel_dropout(o)

        def loss(step: int) -> Tensor:
            rows = plan[step].to(target.device)
            batch = drop_random_channels(subset(data.tokens, rows), len(rows), dropped, generator)
            query = unit_query(batch)
            prompts, further = compose(query)
            z = self.head.head(batch, prompts, data.modality)
            return classifier.loss(z, target[rows], data.classes, query) + further

        with self.phase("prompts", len(plan)) as shown:
            train_in_one_process(
                self,
                [(trained, o.text_lr if own_rate else o.lr), *more_groups, (classifier.parameters, o.classifier_lr)],
                len(plan),
                loss,
                advance=shown.advance,
                generator=generator,
            )

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        if not len(self.classifier):
            return self.embedding_cache.cosine_scores(self.encoder, tokens, modality, classes.embedding)
        pool = self.pools.get(self.encoder.tower(modality))
        if pool is None:
            z = self.embedding_cache.embed_with_prompt(self.encoder, tokens, modality)
        else:
            z = embed_with_own_prefix(
                self.head,
                tokens,
                modality,
                lambda query: self.prompts(query, pool, tokens, modality),
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
