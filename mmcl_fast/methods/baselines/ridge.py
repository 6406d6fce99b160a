"""A ridge classifier on frozen features, in closed form from accumulated moments.

It is RanPAC (McDonnell et al. 2023, arXiv 2307.02251) without the random layer. It equals joint ridge regression on all
tasks' data, whatever the order of the tasks.

Options: :class:`RidgeOptions`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.shared.embedding import unit_query
from mmcl_fast.methods.shared.options import MethodOptions, RidgePenalty
from mmcl_fast.methods.shared.ridge_regression import Ridge


class RidgeOptions(MethodOptions):
    source: Literal["q", "zq"] = Field(
        "q", description="Features. q: the trunk's query, which pools its tokens. zq: the bare head's z and q"
    )
    penalty: RidgePenalty = 0.005


class RidgeMethod(Method):
    """Ridge regression onto one-hot classes. Before the first task the scores are zero-shot."""

    name = "ridge"
    supports_distributed = True
    Options = RidgeOptions

    def __init__(self, encoder: Encoder, options: RidgeOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.ridge = Ridge(encoder.query_dim + (encoder.dim if options.source == "zq" else 0), options.penalty)

    def _features(self, tokens: Tokens, modality: str) -> Tensor:
        """``[n, Dq]``, or ``[n, D + Dq]`` with z."""
        query = unit_query(tokens)
        if self.options.source == "q":
            return query
        z = self.embedding_cache.embed_with_prompt(self.encoder, tokens, modality)
        return torch.cat([F.normalize(z, dim=-1), query], dim=1)

    def learn(self, data: TaskData, classes: Classes) -> None:
        with self.phase("statistics"):
            self.ridge.add(self._features(data.tokens, data.modality), data.labels, len(classes))

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        known = self.ridge.cross.shape[1]
        if known == 0:
            return self.embedding_cache.cosine_scores(self.encoder, tokens, modality, classes.embedding)
        out = self.ridge(self._features(tokens, modality))
        # Classes that were not trained can't be predicted.
        return F.pad(out, (0, len(classes) - known), value=float("-inf"))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return self.ridge.state(), {}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.ridge.load_state(tensors)
