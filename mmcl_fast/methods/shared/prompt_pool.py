"""What the methods share that compose each sample's prefix from its query: training, embedding, state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.shared.classifier import Growing, require_one_process, train
from mmcl_fast.methods.shared.embedding import BATCH, Head, exporting, unit_query
from mmcl_fast.methods.shared.prompt_and_classifier import under
from mmcl_fast.methods.shared.prompts import batches, subset

Composed = tuple[Tensor, Tensor | float]  # a prefix and a further term of the loss


def distance(query: Tensor, keys: Tensor) -> Tensor:
    """1 - cos of unit queries ``[B, Dq]`` and keys ``[K, Dq]``, ``[B, K]``."""
    return 1 - query @ F.normalize(keys, dim=-1).T


def fit(
    method: Method,
    data: TaskData,
    classifier: Growing,
    columns: list[int],
    trained: Sequence[Tensor],
    compose: Callable[[Tensor], Composed],
    generator: torch.Generator,
    head: Head | None = None,
    beside: Sequence[tuple[Sequence[Tensor], float]] = (),
) -> None:
    """Train prompts and a classifier on a task by loss = CE(task's classes) + a further term, in place.

    Args:
        method: its options have ``epochs``, ``batch_size``, ``lr`` (of ``trained``) and ``classifier_lr``.
        columns: the classifier's rows of ``data.classes``.
        compose: unit queries ``[B, Dq]`` -> prefix ``[J, 2, L, d]`` or ``[B, J, 2, L, d]``, and the further term.
        head: what takes such prompts, where it isn't the encoder's own.
        beside: what else is trained, and its rate.
    """
    require_one_process(method)
    o, target, head = method.options, data.targets, head or method.encoder
    plan = batches(len(target), o.batch_size, o.epochs, generator)

    def loss(step: int) -> Tensor:
        rows = plan[step].to(target.device)
        part = subset(data.tokens, rows)
        prefix, further = compose(unit_query(part))
        z = head.head(part, prefix, data.modality)
        return classifier.loss(z, target[rows], columns) + further

    with method.phase("prompts", len(plan)) as shown:
        train(
            method,
            [(trained, o.lr), *beside, (classifier.parameters, o.classifier_lr)],
            len(plan),
            loss,
            advance=shown.advance,
            generator=generator,
        )


def embed_each(encoder: Encoder, tokens: Tokens, modality: str, prefix: Callable[[Tensor], Tensor]) -> Tensor:
    """z without gradient, ``[n, D]``, each sample under the prefix of its own query; batches of one size, the last
    one filled up, as in ``embed_all``.

    Args:
        prefix: unit queries ``[B, Dq]`` -> ``[B, J, 2, L, d]``.
    """
    if exporting():
        return encoder.head(tokens, prefix(unit_query(tokens)), modality)
    out = [torch.empty(0, encoder.dim, device=encoder.device)]
    with torch.no_grad():
        for rows in torch.arange(len(tokens), device=tokens.device).split(BATCH) if len(tokens) else ():
            part = tokens[torch.cat([rows, rows[-1:].expand(BATCH - len(rows))])]
            out.append(encoder.head(part, prefix(unit_query(part)), modality)[: len(rows)])
    return torch.cat(out)


class Pooled(Method):
    """A pool of prompts for each tower, and one classifier for all classes.

    q(x) of the papers, a forward pass of the frozen model without prompts, is ``unit_query`` here: it comes with the
    tokens, without a second pass. Modality given or not makes no difference. Before the first task the scores are
    zero-shot; later they are -inf for classes never trained. A tower without a pool takes its head bare.
    """

    def __init__(self, encoder: Encoder, options: Any, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.pools: dict[str, dict[str, Tensor]] = {}  # tower -> what its pool holds, by name
        self.classifier = Growing(encoder.dim, encoder.device)

    @abstractmethod
    def prefix(self, query: Tensor, pool: dict[str, Tensor]) -> Tensor:
        """Unit queries ``[B, Dq]`` -> ``[B, J, 2, L, d]``, per instance."""

    def fit(
        self,
        data: TaskData,
        classes: Classes,
        trained: Sequence[Tensor],
        compose: Callable[[Tensor], Composed],
        generator: torch.Generator,
    ) -> None:
        """``fit`` with the one classifier, which gets its new rows here."""
        self.classifier.grow(len(classes))
        fit(self, data, self.classifier, data.classes, trained, compose, generator)

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        if not len(self.classifier):
            return self.reuse.cosine_scores(self.encoder, tokens, modality, classes.embedding)
        pool = self.pools.get(self.encoder.tower(modality))
        if pool is None:
            z = self.reuse.one(self.encoder, tokens, modality)
        else:
            z = embed_each(self.encoder, tokens, modality, lambda query: self.prefix(query, pool))
        return self.classifier.scores(z, len(classes))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return (
            {f"pool/{tower}/{k}": v for tower, pool in self.pools.items() for k, v in pool.items()}
            | {f"classifier/{k}": v for k, v in self.classifier.state().items()}
        ), {}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        held = under("pool/", tensors)
        self.pools = {tower: under(f"{tower}/", held) for tower in {k.split("/")[0] for k in held}}
        self.classifier.load_state(under("classifier/", tensors))
