"""The encoder protocol: a two-tower model cut into a frozen trunk and a prompted head.

``trunk`` is computed once per sample and cached; ``head`` runs at every step and is differentiated
with respect to the prefix only. Below the cut nothing is ever trained.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Union

import torch
from torch import Tensor, nn

from mmcl_fast.errors import EncoderError
from mmcl_fast.media.spec import Spec

Rows = Union[Tensor, slice, Sequence[int], int]


class Tokens:
    """The trunk's output for a batch of B samples of one modality.

    Known by identity, so that what is computed of them can be kept beside them.

    Attributes:
        tokens: ``[B, N, d_tok]``, any float dtype.
        query: ``[B, Dq]`` float32, pooled from the trunk's output; each tower writes its own slots.
        mask: ``[B, N]`` bool, True for real tokens; None when all are real.
    """

    def __init__(self, tokens: Tensor, query: Tensor, mask: Tensor | None = None):
        self._tokens, self.query, self._mask = tokens, query, mask

    @property
    def tokens(self) -> Tensor:
        return self._tokens

    @property
    def mask(self) -> Tensor | None:
        return self._mask

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def device(self) -> torch.device:
        return self.tokens.device

    @property
    def nbytes(self) -> int:
        parts = (self.tokens, self.query, self.mask)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)

    def __getitem__(self, rows: Rows) -> Tokens:
        return Tokens(self.tokens[rows], self.query[rows], None if self.mask is None else self.mask[rows])

    def to(self, device: torch.device | str) -> Tokens:
        return Tokens(
            self.tokens.to(device), self.query.to(device), None if self.mask is None else self.mask.to(device)
        )

    def rounded(self) -> Tokens:
        """As they are kept and learned from: tokens in bfloat16."""
        return Tokens(self.tokens.bfloat16(), self.query, self.mask)


class Encoder(ABC):
    """A frozen two-tower encoder.

    Attributes:
        name: what the user asked for.
        dim: D, the width of z and of class texts.
        query_dim: Dq, the sum of the towers' query widths.
        blocks: J, the number of prompted blocks.
        logit_scale: s, the model's own temperature, as a factor.
        fingerprint: sha256 over weights, specs and the cut; keys the trunk cache.
        precision: dtype of matrix products above the cut; ``set_precision`` changes it.
    """

    name: str
    dim: int
    query_dim: int
    blocks: int
    logit_scale: float
    fingerprint: str
    device: torch.device = torch.device("cpu")
    precision: torch.dtype = torch.float32

    @abstractmethod
    def tower(self, modality: str) -> str:
        """``"vision"`` or ``"text"``: prefixes are blended only within one tower."""

    @abstractmethod
    def prefix_width(self, modality: str) -> int:
        """d of a prefix ``[J, 2, L, d]`` (or per sample ``[B, J, 2, L, d]``)."""

    @abstractmethod
    def spec(self, modality: str) -> Spec:
        """How media of this modality are prepared for the trunk."""

    @abstractmethod
    def trunk(self, batch: Tensor | list[str], modality: str) -> Tokens:
        """Frozen part. batch: ``[B, F, 3, H, W]`` float32, or B strings for a text tower."""

    @abstractmethod
    def head(self, tokens: Tokens, prefix: Tensor | None, modality: str) -> Tensor:
        """z ``[B, D]`` float32, not normalised; differentiable with respect to ``prefix`` only."""

    @abstractmethod
    def text(self, texts: list[str]) -> Tensor:
        """Class texts ``[C, D]`` float32 with unit rows."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Encoder:
        """Move the frozen weights; returns self."""

    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids ``[B, N]`` int64 and mask ``[B, N]`` bool, on any device, as ``trunk_of_ids`` takes them."""
        raise EncoderError(f"{self.name}: its texts have no token ids, so that text can't be exported")

    def trunk_of_ids(self, ids: Tensor, mask: Tensor) -> Tokens:
        """``trunk`` of texts from what ``encode`` gives; tensor code alone."""
        raise EncoderError(f"{self.name}: its texts have no token ids, so that text can't be exported")

    def tokenizer(self) -> tuple[str, dict[str, Any]]:
        """``encode`` as the text of a tokenizer.json, its padding and truncation set, and ``lowercase`` (before it),
        ``max_tokens``, ``dynamic`` (False: every text is padded to ``max_tokens``)."""
        raise EncoderError(f"{self.name}: its texts have no token ids, so that text can't be exported")

    def above(self) -> list[nn.Module]:
        """The modules that ``head`` runs and ``trunk`` does not: what training without a stream may train (``joint``);
        none: prompts alone."""
        return []

    def set_precision(self, dtype: torch.dtype) -> None:
        """dtype of matrix products above the cut; residual streams, norms and z stay float32."""
        self.precision = dtype
