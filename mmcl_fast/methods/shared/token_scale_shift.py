"""Prompts of two parts in one vector: prefix keys and values, and a scale and shift for each token of the trunk.

Token i of every sample of a modality becomes x_i (1 + g_i) + |x_i|_rms a_i before the head's first block. In a clip,
the pair (a_i, g_i) is the sum of one pair for the token's grid cell and one for its frame. VPT (Jia et al. 2022, arXiv
2203.12119, section 4.4) calls such shifts "Add"; the gains are FiLM's (Perez et al. 2018, arXiv 1709.07871), with one
for each position.

A prefix can only mix into what a frozen block computes for each token. A shift tells the frozen blocks which token it
is, and a gain makes position matter even to their mean over tokens. With the embedded encoder this makes order and
place learnable (docs/evidence.md). Such prompts are one vector, so they are blended, averaged and stored like others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.shared.prompts import PromptBank, prefix_shape


def drop_channels(tokens: Tokens, kept: Tensor, share: float) -> Tokens:
    """Set some channels of each sample to 0 at all positions, and scale up the others (spatial dropout).

    Source: Tompson et al. 2015, arXiv 1411.4280. A prompt that learns from few samples then depends on no single
    channel.

    Args:
        tokens: of B samples.
        kept: ``[B, width]`` bool, the channels that stay.
        share: the share of channels that is left out on average.
    """
    x = tokens.tokens.float() * (kept / (1 - share)).unsqueeze(1)
    return Tokens(x, tokens.query, tokens.mask)


class TokenScaleShiftHead:
    """The head of an encoder for prompts ``[P]`` of both parts; it is a ``Head`` as ``embed_all`` takes one.

    The second part of a prompt holds R pairs of shift and gain, ``[R, 2 width]``.

    Args:
        encoder: the encoder.
        length: L, tokens of the prefix.
        scale_shift: new prompts have the second part.
        text_scale_shift: new prompts of text have it too.
    """

    def __init__(self, encoder: Encoder, length: int, scale_shift: bool, text_scale_shift: bool = True):
        self.encoder, self.length = encoder, length
        self.scale_shift, self.text_scale_shift = scale_shift, text_scale_shift
        self.dim = encoder.dim

    @property
    def device(self) -> torch.device:
        return self.encoder.device

    def frames(self, modality: str) -> int:
        """Frames of a sample; 1 for a modality without frames."""
        return getattr(self.encoder.spec(modality), "frames", 1)

    def prefix(self, modality: str) -> torch.Size:
        """Shape ``[J, 2, L, d]`` of the first part."""
        return prefix_shape(self.encoder, self.length, modality)

    def check_shape(self, prompt: Tensor, modality: str) -> Tensor:
        """Return a checkpoint's prompt as ``[P]``. A prompt without the second part may be ``[J, 2, L, d]``.

        Raises:
            ValueError: it is neither of this shape nor a vector of at least as many numbers. The checkpoint does not
                say how many pairs follow the prefix, so any longer vector passes.
        """
        shape = self.prefix(modality)
        if prompt.shape != shape and (prompt.dim() != 1 or len(prompt) < shape.numel()):
            raise ValueError(f"prompt of {modality}: shape {tuple(prompt.shape)}, not ({shape.numel()} or more,)")
        return prompt.flatten()

    def split(self, prompt: Tensor, modality: str) -> list[Tensor]:
        """Return copies of the two parts, ``[n]`` and ``[P - n]``, so that each can be trained at its own rate.

        ``torch.cat`` of the two is the prompt again. The second is empty for a prompt that has a prefix alone.
        """
        count = self.prefix(modality).numel()
        return [prompt[:count].clone(), prompt[count:].clone()]

    def unpack(self, prompt: Tensor, modality: str, width: int) -> tuple[Tensor, Tensor]:
        """Return views of a prompt ``[..., P]``: prefix ``[..., J, 2, L, d]``, and pairs ``[..., R, 2 width]``.

        A pair has the shift's channels first, then the gain's.
        """
        shape = self.prefix(modality)
        prefix, pairs = prompt[..., : shape.numel()], prompt[..., shape.numel() :]
        return prefix.unflatten(-1, shape), pairs.unflatten(-1, (-1, 2 * width))

    def prompt_size(self, tokens: Tokens, modality: str) -> int:
        """Return P for such tokens: with one pair for each grid cell, and one for each frame where there are several.

        It is the size of a prefix alone where the options give the modality no second part.

        Args:
            tokens: of samples of the modality.
            modality: their modality.
        """
        count = self.prefix(modality).numel()
        if not self.scale_shift or (self.encoder.tower(modality) == "text" and not self.text_scale_shift):
            return count
        frames, (_, positions, width) = self.frames(modality), tokens.tokens.shape
        return count + (positions // frames + (frames if frames > 1 else 0)) * 2 * width

    def resize(self, prompt: Tensor, modality: str, size: int | None, same_modality: bool = False) -> Tensor:
        """Return a prompt ``[P]`` in the size that samples of ``modality`` take.

        A prompt of another modality and another size belongs to another grid: its scales and shifts mean nothing there,
        so its prefix alone is taken. What is missing is filled with 0.

        Args:
            prompt: ``[P]``.
            modality: of the samples.
            size: numbers of the modality's prompts; None: of a prefix alone.
            same_modality: the prompt was learned for this modality, from samples with fewer tokens.
        """
        prefix = self.prefix(modality).numel()
        size = prefix if size is None else size
        if len(prompt) == size:
            return prompt
        kept = prompt if same_modality else prompt[:prefix]
        return F.pad(kept, (0, size - len(kept)))

    def regrid(self, prompt: Tensor, source: str, modality: str, size: int, width: int) -> Tensor:
        """Return a prompt of another modality in the size that samples of ``modality`` take.

        The table of cells is interpolated from one square grid to the other. The table of frames is interpolated too.
        So a place keeps its meaning, such as left or right. Frames that the source lacks get 0.

        Args:
            prompt: ``[P]``, learned for ``source``.
            source: its modality.
            modality: of the samples.
            size: numbers of the modality's prompts.
            width: numbers of a token.
        """
        prefix = self.prefix(modality).numel()
        cells, times = self.cells_and_frames(prompt, source, width)
        new_cells, new_times = self.cells_and_frames(prompt.new_zeros(size), modality, width)
        side, new_side = math.isqrt(len(cells)), math.isqrt(len(new_cells))
        if side * side != len(cells) or new_side * new_side != len(new_cells) or not side or not new_side:
            return self.resize(prompt, modality, size)
        grid = cells.T.reshape(1, -1, side, side)
        cells = F.interpolate(grid, (new_side, new_side), mode="bilinear", antialias=True).flatten(2)[0].T
        if len(times) and len(new_times):
            new_times = F.interpolate(times.T.unsqueeze(0), len(new_times), mode="linear")[0].T
        return torch.cat([prompt[:prefix], cells.flatten(), new_times.flatten()])

    def cells_and_frames(self, prompt: Tensor, modality: str, width: int) -> tuple[Tensor, Tensor]:
        """The pairs of a prompt ``[P]`` for cells, ``[R - F, 2 width]``, and for F frames of a clip; F = 0 without."""
        pairs, frames = self.unpack(prompt, modality, width)[1], self.frames(modality)
        count = len(pairs) - (frames if frames > 1 else 0)
        return pairs[:count], pairs[count:]

    def head(self, tokens: Tokens, prompt: Tensor | None, modality: str) -> Tensor:
        """Return z ``[B, D]``. The prompt is ``[P]``, ``[B, P]`` with one for each sample, or None for no prompt."""
        if prompt is None:
            return self.encoder.head(tokens, None, modality)
        x = tokens.tokens.float()  # a product of bfloat16 tokens would lose small shifts
        prefix, pairs = self.unpack(prompt, modality, x.shape[2])
        if pairs.shape[-2]:
            rms = x.square().mean(-1, keepdim=True).sqrt()
            shift, gain = self._pair_of_each_token(pairs, modality, x.shape[1]).chunk(2, dim=-1)
            tokens = Tokens(x * (1 + gain) + rms * shift, tokens.query, tokens.mask)
        return self.encoder.head(tokens, prefix, modality)

    def _pair_of_each_token(self, pairs: Tensor, modality: str, count: int) -> Tensor:
        """Return ``[..., count, 2 width]``: pairs of cells and frames ``[..., R, 2 width]`` for each token position.

        Tokens beyond the R-th, of a text longer than any that was learned from, get zeros.
        """
        frames = self.frames(modality)
        if frames > 1:
            cells, times = pairs[..., :-frames, :], pairs[..., -frames:, :]
            return (cells.unsqueeze(-3) + times.unsqueeze(-2)).flatten(-3, -2)
        # Texts have any length. Padding without asking whether it is needed keeps a graph exportable for all of them.
        if modality == "text" or count > pairs.shape[-2]:
            pairs = F.pad(pairs, (0, 0, 0, count))
        return pairs[..., :count, :]


class PromptInTraining:
    """A prompt ``[P]`` as the parameters that an optimiser changes; calling it gives the prompt.

    The prefix is one parameter, in units of the blocks' own keys and values. With a rank k, the table of pairs
    ``[R, 2 width]`` is its start plus a product S V. S ``[R, k]`` begins at 0, V ``[k, 2 width]`` at random numbers.
    The first row of V gains all channels alike. So a step moves all channels of a position along k common directions.
    The table itself has a number for each position and channel, and few samples can't determine them all. Low-rank
    updates are LoRA's (Hu et al. 2021, arXiv 2106.09685).

    Args:
        head: the head that the prompt is for.
        start: the prompt to begin from, ``[P]``; it is not changed.
        modality: of the samples.
        width: numbers of a token.
        rank: k; 0: the table is one parameter.
        generator: the source of V's numbers.
        units: ``[J, 2]``, as ``prompts.prefix_units`` returns them; None: 1.

    Attributes:
        prefix: the prefix's parameter.
        pairs: the parameters of the table; empty for a prompt that has a prefix alone.
    """

    def __init__(
        self,
        head: TokenScaleShiftHead,
        start: Tensor,
        modality: str,
        *,
        width: int,
        rank: int,
        generator: torch.Generator,
        units: Tensor | None = None,
    ):
        self.prefix, self._table = head.split(start, modality)
        self._units: Tensor | None = None
        if units is not None:
            self._units = units[:, :, None, None].expand(head.prefix(modality)).flatten()
            self.prefix = self.prefix / self._units
        self._factors: tuple[Tensor, Tensor] | None = None
        self.pairs = [self._table] if len(self._table) else []
        if self.pairs and rank:
            directions = torch.randn(rank, 2 * width, generator=generator)
            directions[0, :width], directions[0, width:] = 0.0, 1.0
            sizes = torch.zeros(len(self._table) // (2 * width), rank)
            self._factors = sizes.to(start.device), directions.to(start.device)
            self.pairs = list(self._factors)

    def __call__(self) -> Tensor:
        """Return the prompt ``[P]``, differentiable with respect to the parameters."""
        table = self._table
        if self._factors is not None:
            table = table + (self._factors[0] @ self._factors[1]).flatten()
        prefix = self.prefix if self._units is None else self.prefix * self._units
        return torch.cat([prefix, table])


class TokenScaleShiftBank(PromptBank):
    """Prompts ``[P]`` of both parts, one for each modality.

    Tokens of another grid have other positions. In a blend, a prompt of another size takes part with its prefix alone.
    With ``regrid`` its table takes part too, brought to the grid by ``TokenScaleShiftHead.regrid``.

    Attributes:
        sizes: modality -> P of its prompts.
        widths: modality -> numbers of its tokens; stays empty without ``regrid``.
    """

    def __init__(
        self, encoder: Encoder, length: int, scale_shift: bool, text_scale_shift: bool = True, regrid: bool = False
    ):
        super().__init__(encoder, length)
        self.regrid = regrid
        self.head = TokenScaleShiftHead(encoder, length, scale_shift, text_scale_shift)
        self.sizes: dict[str, int] = {}
        self.widths: dict[str, int] = {}

    def reserve(self, tokens: Tokens, modality: str) -> None:
        """Make the present and the next prompts of a modality large enough for such tokens, with zeros at the end.

        Texts may be longer than before, and an old prompt may lack scales and shifts. No prompt becomes smaller.
        """
        size = max(self.head.prompt_size(tokens, modality), self.sizes.get(modality, 0))
        self.sizes[modality] = size
        if self.regrid:
            self.widths[modality] = tokens.tokens.shape[2]
        if (known := self.prompts.get(modality)) is not None and len(known) < size:
            self.prompts[modality] = F.pad(known, (0, size - len(known)))

    def fresh(self, modality: str, generator: torch.Generator) -> Tensor:
        """Return a new prompt: a prefix of small random numbers, scales and shifts that change nothing."""
        prefix = super().fresh(modality, generator).flatten()
        return F.pad(prefix, (0, self.sizes[modality] - len(prefix)))

    def prompt_for(self, name: str, modality: str) -> Tensor:
        """Return P_name in the size that samples of ``modality`` take."""
        prompt, size, width = self.prompts[name], self.sizes.get(modality), self.widths.get(modality)
        if size is None or len(prompt) == size or width is None or self.widths.get(name) != width:
            return self.head.resize(prompt, modality, size)
        if self.encoder.tower(modality) == "text" or len(prompt) == self.head.prefix(name).numel():
            return self.head.resize(prompt, modality, size)
        return self.head.regrid(prompt, name, modality, size, width)

    def load(
        self,
        prompts: dict[str, Tensor],
        widths: Mapping[str, int] | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        """Take over a checkpoint's prompts, and the widths of tokens and sizes of prompts that it knows.

        A prompt without scales and shifts stays so until ``reserve`` enlarges it, when its modality is learned again.
        """
        self.prompts = {m: self.head.check_shape(p, m) for m, p in prompts.items()}
        self.sizes = {m: len(p) for m, p in self.prompts.items()} | dict(sizes or {})
        self.widths = dict(widths or {})
