"""The encoder protocol: a two-tower model cut into a frozen trunk and a prompted head.

``trunk`` is computed once per sample and cached. ``head`` runs at every step and is differentiated with respect to
the prefix only. Nothing in the trunk is ever trained.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Union

import torch
from torch import Tensor, nn

from mmcl_fast.errors import EncoderError
from mmcl_fast.media.spec import Spec

RowIndex = Union[Tensor, slice, Sequence[int], int]


class Tokens:
    """The trunk's output for a batch of B samples of one modality.

    Compared by identity, so that results can be cached per object.

    Attributes:
        tokens: ``[B, N, d_tok]``, any float dtype.
        query: ``[B, Dq]`` float32, pooled from the trunk's output. Each tower fills its own columns; the others are 0.
        mask: ``[B, N]`` bool, True for real tokens; None: all are real.
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

    def __getitem__(self, rows: RowIndex) -> Tokens:
        return Tokens(self.tokens[rows], self.query[rows], None if self.mask is None else self.mask[rows])

    def to(self, device: torch.device | str) -> Tokens:
        return Tokens(
            self.tokens.to(device), self.query.to(device), None if self.mask is None else self.mask.to(device)
        )

    def rounded(self) -> Tokens:
        """Return a copy with tokens in bfloat16, as the feature cache stores them and as methods learn from them."""
        return Tokens(self.tokens.bfloat16(), self.query, self.mask)


class Encoder(ABC):
    """A frozen two-tower encoder.

    Attributes:
        name: the name in the config.
        dim: D, the width of z and of class texts.
        query_dim: Dq, the sum of the towers' query widths.
        num_prompted_blocks: J, the number of the head's blocks that take a prefix.
        logit_scale: s, the model's own temperature, as a factor.
        fingerprint: sha256 over weights, specs and the cut; part of the feature cache's key.
        device: where the frozen weights are.
        precision: dtype of the head's matrix products; ``set_precision`` changes it.
    """

    name: str
    dim: int
    query_dim: int
    num_prompted_blocks: int
    logit_scale: float
    fingerprint: str
    device: torch.device = torch.device("cpu")
    precision: torch.dtype = torch.float32

    @abstractmethod
    def tower(self, modality: str) -> str:
        """Return ``"vision"`` or ``"text"``. Prefixes are blended only within one tower."""

    @abstractmethod
    def prefix_width(self, modality: str) -> int:
        """Return d of a prefix ``[J, 2, L, d]`` (or per sample ``[B, J, 2, L, d]``)."""

    @abstractmethod
    def spec(self, modality: str) -> Spec:
        """Return the preparation of this modality's media: sizes, statistics, sound windows."""

    @abstractmethod
    def trunk(self, batch: Tensor | list[str], modality: str) -> Tokens:
        """Run the frozen part.

        Args:
            batch: ``[B, F, 3, H, W]`` float32 as ``spec`` prepares it, or B strings for a text tower.
            modality: a name from ``mmcl_fast.media.MODALITIES``.
        """

    @abstractmethod
    def head(self, tokens: Tokens, prefix: Tensor | None, modality: str) -> Tensor:
        """Run the prompted part: z ``[B, D]`` float32, not normalised, differentiable with respect to ``prefix`` only.

        Args:
            tokens: B samples from ``trunk``.
            prefix: ``[J, 2, L, d]``, or ``[B, J, 2, L, d]`` with one for each sample; None: no prompt.
            modality: the samples' modality.
        """

    @abstractmethod
    def text(self, texts: list[str]) -> Tensor:
        """Embed C class texts: ``[C, D]`` float32 with rows of length 1."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Encoder:
        """Move the frozen weights to a device and return self."""

    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Return token ids ``[B, N]`` int64 and mask ``[B, N]`` bool for ``trunk_of_ids``, on any device.

        Raises:
            EncoderError: the encoder's texts have no token ids, as by default. Text can't be exported then.
        """
        raise EncoderError(f"{self.name}: its texts have no token ids, so that text can't be exported")

    def trunk_of_ids(self, ids: Tensor, mask: Tensor) -> Tokens:
        """Run ``trunk`` on the ids and mask from ``encode``. Only tensor operations, so that it can be exported.

        Raises:
            EncoderError: as for ``encode``.
        """
        raise EncoderError(f"{self.name}: its texts have no token ids, so that text can't be exported")

    def tokenizer(self) -> tuple[str, dict[str, Any]]:
        """Return ``encode`` as the text of a tokenizer.json, and three settings.

        Returns:
            The JSON text with padding and truncation set, then ``lowercase`` (apply it before), ``max_tokens`` and
            ``dynamic`` (False: every text is padded to ``max_tokens``).

        Raises:
            EncoderError: as for ``encode``.
        """
        raise EncoderError(f"{self.name}: its texts have no token ids, so that text can't be exported")

    def trainable_modules(self) -> list[nn.Module]:
        """Return the modules that only ``head`` runs, for methods that train weights (``joint``). None by default."""
        return []

    def trunk_libraries(self, modality: str) -> tuple[str, ...]:
        """Return the distributions, besides torch, whose version may change the trunk's output for a modality.

        Their versions become part of the feature cache's key. Example: ``("transformers", "tokenizers")``.
        """
        return ()

    def set_precision(self, dtype: torch.dtype) -> None:
        """Set the dtype of the head's matrix products; residual streams, norms and z stay float32."""
        self.precision = dtype

    # ---- names until November 2026 --------------------------------------------------------------------------

    above = trainable_modules

    def __init_subclass__(cls, **options: Any) -> None:
        """Accept ``above`` and ``blocks`` in an encoder that a user wrote before these names were changed."""
        super().__init_subclass__(**options)
        members = vars(cls)
        modules = members.get("trainable_modules") or members.get("above")
        if modules is not None:  # both names in each class, so that super().above() finds the class above
            setattr(cls, "trainable_modules", modules)  # noqa: B010  # the type checker refuses an assignment
            setattr(cls, "above", modules)  # noqa: B010
        if "blocks" in members and "num_prompted_blocks" not in members:
            setattr(cls, "num_prompted_blocks", members["blocks"])  # noqa: B010
            del cls.blocks  # so that the property below is found, which reads the new name

    @property
    def blocks(self) -> int:
        """``num_prompted_blocks``; the old name, which may also be set."""
        return self.num_prompted_blocks

    @blocks.setter
    def blocks(self, count: int) -> None:
        self.num_prompted_blocks = count
