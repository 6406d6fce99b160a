"""Reading prompts: further prompts under which a sample is embedded, beside the prompt of its modality.

    u = [z ; q ; z_1 ; ... ; z_K]

z_k is the unit embedding under the k-th reading prompt. A modality gets its K reading prompts on its first task. The
first ones are the prompts that the other modalities of its tower have by then. What they learned to look at tells this
modality's classes apart too. Random prompts take the places that are left.

Reading prompts never change. So the features under them never drift, and all classes of a modality have them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.shared.prompt_training import fresh_prompt
from mmcl_fast.methods.shared.token_scale_shift import TokenScaleShiftBank

PATTERN_SIDE = 3  # a random gain has so many independent numbers along each axis of a grid, and in time
PATTERN_SIZE = 2.0  # standard deviation of these numbers


def random_pattern(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return smooth random numbers over a grid, ``[side, side]`` or ``[frames]``.

    Args:
        shape: of the grid.
        generator: the source of random numbers, on the CPU.
    """
    coarse = PATTERN_SIZE * torch.randn((1, 1, *[PATTERN_SIDE] * len(shape)), generator=generator)
    return F.interpolate(coarse, shape, mode="bilinear" if len(shape) == 2 else "linear")[0, 0]


def random_prompt(bank: TokenScaleShiftBank, tokens: Tokens, modality: str, generator: torch.Generator) -> Tensor:
    """Return a prompt ``[P]`` with a new prefix and smooth random gains, one for each cell and each frame.

    Args:
        bank: makes the prefix; its prompts do not change.
        tokens: of some samples.
        modality: of the samples.
        generator: the source of random numbers, on the CPU.
    """
    prompt, width = fresh_prompt(bank, tokens, modality, generator), tokens.tokens.shape[2]
    cells, frames = bank.head.cells_and_frames(prompt, modality, width)  # views
    side = math.isqrt(len(cells))
    shape = (side, side) if side * side == len(cells) else (len(cells),)
    cells[:, width:] += random_pattern(shape, generator).flatten().unsqueeze(1).to(prompt.device)
    if len(frames):
        frames[:, width:] += random_pattern((len(frames),), generator).unsqueeze(1).to(prompt.device)
    return prompt


class ReadingPrompts:
    """K reading prompts for each modality that has any.

    Args:
        encoder: the encoder.
        count: K.
        length: tokens of a prompt's prefix.
        text_scale_shift: texts get reading prompts too.

    Attributes:
        banks: K banks. The k-th one has the k-th reading prompt of each modality.
    """

    def __init__(self, encoder: Encoder, count: int, length: int, text_scale_shift: bool):
        self.encoder = encoder
        self.banks = [TokenScaleShiftBank(encoder, length, True, text_scale_shift, regrid=True) for _ in range(count)]

    @property
    def modalities(self) -> list[str]:
        """The modalities that have reading prompts."""
        return list(self.banks[0].prompts) if self.banks else []

    def choose(
        self, modality: str, tokens: Tokens, learned: TokenScaleShiftBank, borrow: bool, generator: torch.Generator
    ) -> None:
        """Choose the reading prompts of a modality.

        A modality whose prompts are prefixes alone, such as text, gets none.

        Args:
            modality: it has no reading prompts yet.
            tokens: of some of its samples.
            learned: the prompts that modalities have learned.
            borrow: take prompts of other modalities; False: random ones alone.
            generator: the source of random numbers, on the CPU.
        """
        tower = self.encoder.tower(modality)
        if tower == "text" and not all(bank.head.text_scale_shift for bank in self.banks):
            return
        others = [m for m in learned.prompts if m != modality and self.encoder.tower(m) == tower] if borrow else []
        for number, bank in enumerate(self.banks):
            bank.reserve(tokens, modality)
            if number < len(others):  # a prompt that is a prefix alone gets scales and shifts of 0
                borrowed, size = learned.prompt_for(others[number], modality), bank.sizes[modality]
                bank.prompts[modality] = bank.head.resize(borrowed, modality, size, same_modality=True).clone()
            else:
                bank.prompts[modality] = random_prompt(bank, tokens, modality, generator)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the prompts as ``NUMBER/MODALITY``, and the widths of tokens."""
        tensors = {f"{k}/{m}": p for k, bank in enumerate(self.banks) for m, p in bank.prompts.items()}
        return tensors, dict(self.banks[0].widths) if self.banks else {}

    def load_state(self, tensors: dict[str, Tensor], widths: dict[str, Any], order: list[str]) -> None:
        """Take over what :meth:`state` returned.

        Args:
            tensors: the prompts.
            widths: of the modalities' tokens.
            order: the modalities in the order in which they were learned.

        Raises:
            ValueError: a modality has another number of reading prompts than the options say.
        """
        for m in dict.fromkeys(name.split("/", 1)[1] for name in tensors):
            found = sum(name.split("/", 1)[1] == m for name in tensors)
            if found != len(self.banks):
                raise ValueError(f"{m}: {found} reading prompts, not {len(self.banks)}")
        for k, bank in enumerate(self.banks):
            bank.load({m: tensors[f"{k}/{m}"] for m in order if f"{k}/{m}" in tensors}, widths)
