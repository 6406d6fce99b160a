"""Prompts of two parts in one vector: prefix keys and values, and rows that scale and shift the trunk's tokens.

Token i of every sample of a modality becomes x_i (1 + g_i) + |x_i|_rms a_i before the head's first block. A clip's row
(a_i, g_i) is the sum of its cell's and its frame's. VPT (Jia et al. 2022, arXiv 2203.12119, section 4.4) calls shifts
at that place "Add"; gains are those of FiLM (Perez et al. 2018, arXiv 1709.07871), one for each place. A prefix can
only mix into what a frozen block says of each token; a shift tells the frozen blocks which token it is, and a gain lets
even their mean over tokens tell where a thing is. With the embedded encoder that is what makes order and place
learnable (docs/evidence.md). Being one vector, such prompts are blended, aggregated and kept like any other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.shared.embedding import exporting
from mmcl_fast.methods.shared.prompts import PromptBank, prefix_shape


def drop_channels(tokens: Tokens, kept: Tensor, share: float) -> Tokens:
    """Tokens without some of their channels, the same ones in all places of a sample, the others larger in return
    (Tompson et al. 2015, arXiv 1411.4280): what a prompt learns of few samples hangs on no single channel.

    Args:
        kept: ``[B, width]`` bool.
        share: of channels that are left out on average.
    """
    x = tokens.tokens.float() * (kept / (1 - share)).unsqueeze(1)
    return Tokens(x, tokens.query, tokens.mask)


class RowHead:
    """The head of an encoder, for prompts of both parts: what ``embed_all`` needs of an encoder.

    Args:
        encoder: whose head it is.
        length: L of the prefix.
        rows: whether new prompts have rows for tokens.
        text_rows: those of texts too, whose places mean less: a text may say the same one word later.
    """

    def __init__(self, encoder: Encoder, length: int, rows: bool, text_rows: bool = True):
        self.encoder, self.length, self.rows, self.text_rows = encoder, length, rows, text_rows
        self.dim = encoder.dim

    @property
    def device(self) -> torch.device:
        return self.encoder.device

    def frames(self, modality: str) -> int:
        return getattr(self.encoder.spec(modality), "frames", 1)

    def prefix(self, modality: str) -> torch.Size:
        """J, 2, L, d of the first part."""
        return prefix_shape(self.encoder, self.length, modality)

    def kept(self, prompt: Tensor, modality: str) -> Tensor:
        """``[P]`` of a prompt as a checkpoint holds it; those of before there were rows are ``[J, 2, L, d]``.

        Raises:
            ValueError: of another shape.
        """
        shape = self.prefix(modality)
        if prompt.shape != shape and (prompt.dim() != 1 or len(prompt) < shape.numel()):
            raise ValueError(f"prompt of {modality}: shape {tuple(prompt.shape)}, not ({shape.numel()} or more,)")
        return prompt.flatten()

    def parts(self, prompt: Tensor, modality: str) -> list[Tensor]:
        """Copies of the two parts ``[n]`` and ``[P - n]``, for learning them at rates of their own; cat is its
        inverse."""
        count = self.prefix(modality).numel()
        return [prompt[:count].clone(), prompt[count:].clone()]

    def split(self, prompt: Tensor, modality: str, width: int) -> tuple[Tensor, Tensor]:
        """``[..., P]`` -> prefix ``[..., J, 2, L, d]`` and rows ``[..., R, 2 width]``, shift and then gain."""
        shape = self.prefix(modality)
        prefix, rows = prompt[..., : shape.numel()], prompt[..., shape.numel() :]
        return prefix.unflatten(-1, shape), rows.unflatten(-1, (-1, 2 * width))

    def size(self, tokens: Tokens, modality: str) -> int:
        """P of a prompt for such tokens: with a row for each cell, and for each frame where there are several."""
        count = self.prefix(modality).numel()
        if not self.rows or (self.encoder.tower(modality) == "text" and not self.text_rows):
            return count
        frames, (_, places, width) = self.frames(modality), tokens.tokens.shape
        return count + (places // frames + (frames if frames > 1 else 0)) * 2 * width

    def fitted(self, prompt: Tensor, modality: str, size: int | None, own: bool = False) -> Tensor:
        """A prompt ``[P]`` as samples of ``modality`` take it, whose prompts have ``size`` numbers (None: the prefix
        alone). One of another size and not its ``own`` is of another grid: its rows say nothing there."""
        prefix = self.prefix(modality).numel()
        size = prefix if size is None else size
        if len(prompt) == size:
            return prompt
        kept = prompt if own else prompt[:prefix]
        return F.pad(kept, (0, size - len(kept)))

    def head(self, tokens: Tokens, prompt: Tensor | None, modality: str) -> Tensor:
        """z ``[B, D]``; prompt ``[P]``, or ``[B, P]``, one for each sample."""
        if prompt is None:
            return self.encoder.head(tokens, None, modality)
        x = tokens.tokens.float()
        prefix, rows = self.split(prompt, modality, x.shape[2])
        if rows.shape[-2]:
            scale = x.square().mean(-1, keepdim=True).sqrt()
            shift, gain = self._places(rows, modality, x.shape[1]).chunk(2, dim=-1)
            tokens = Tokens(x * (1 + gain) + scale * shift, tokens.query, tokens.mask)
        return self.encoder.head(tokens, prefix, modality)

    def _places(self, rows: Tensor, modality: str, places: int) -> Tensor:
        """Rows of cells and frames ``[..., R, 2w]`` -> a row for each place, ``[..., places, 2w]``; texts may be longer
        than any that was learned from."""
        frames = self.frames(modality)
        if frames > 1:
            cells, times = rows[..., :-frames, :], rows[..., -frames:, :]
            return (cells.unsqueeze(-3) + times.unsqueeze(-2)).flatten(-3, -2)
        # One more than any text has: a graph for any length may not ask whether a text takes all rows.
        longest = self.encoder.tokenizer()[1]["max_tokens"] + 1 if exporting() and modality == "text" else places
        if longest > rows.shape[-2]:
            rows = F.pad(rows, (0, 0, 0, longest - rows.shape[-2]))
        return rows[..., :places, :]


class RowBank(PromptBank):
    """P_m of both parts, ``[P]`` for each modality. Tokens of another grid have other places: a prompt is blended
    with the rows of those of its own size alone."""

    def __init__(self, encoder: Encoder, length: int, rows: bool, text_rows: bool = True):
        super().__init__(encoder, length)
        self.head = RowHead(encoder, length, rows, text_rows)
        self.sizes: dict[str, int] = {}

    def meet(self, tokens: Tokens, modality: str) -> None:
        """Make room for tokens of a modality: texts may be longer than before."""
        size = max(self.head.size(tokens, modality), self.sizes.get(modality, 0))
        self.sizes[modality] = size
        if (known := self.prompts.get(modality)) is not None and len(known) < size:
            self.prompts[modality] = F.pad(known, (0, size - len(known)))

    def fresh(self, modality: str, generator: torch.Generator) -> Tensor:
        prefix = super().fresh(modality, generator).flatten()
        return F.pad(prefix, (0, self.sizes[modality] - len(prefix)))

    def part(self, name: str, modality: str) -> Tensor:
        """P_name as samples of ``modality`` take it, see ``RowHead.fitted``."""
        return self.head.fitted(self.prompts[name], modality, self.sizes.get(modality))

    def load(self, prompts: dict[str, Tensor]) -> None:
        """Inverse of ``prompts``; those of before there were rows stay without."""
        self.prompts = {m: self.head.kept(p, m) for m, p in prompts.items()}
        self.sizes = {m: len(p) for m, p in self.prompts.items()}
