"""One prompt for each tower, for methods that train the same prompt in every task.

A prompt is a prefix that all modalities of a tower share. With ``token_scale_shift`` it also scales and shifts the
trunk's tokens, as COMM's prompts do (``token_scale_shift.py``). A scale and shift belongs to a position. So samples
share them only where their tokens have one layout: the same number of frames, and of tokens in a frame. The layout can
be seen from a sample's tokens. So the prompt of a sample never depends on whether its modality is given.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.shared.prompt_training import PromptOptions, PromptTraining, fresh_prompt
from mmcl_fast.methods.shared.token_scale_shift import TokenScaleShiftBank


class TowerPrompts:
    """The prompts of all towers, in parts by name.

    The part "vision" is the prefix ``[J, 2, L, d]`` of that tower. The part "vision/8x49" holds the scales and shifts,
    flat, of samples with 8 frames of 49 tokens. Texts have any length, so all of them share "text/any".

    Args:
        encoder: the encoder.
        options: of the method.

    Attributes:
        stored: name -> part.
        head: the encoder's head for prompts ``[P]``: the parts of a sample in one vector.
    """

    def __init__(self, encoder: Encoder, options: PromptOptions):
        o = options
        self.encoder, self.options = encoder, o
        self.bank = TokenScaleShiftBank(encoder, o.prompt_length, o.token_scale_shift, o.text_scale_shift)
        self.head = self.bank.head
        self.stored: dict[str, Tensor] = {}

    def layout(self, tokens: Tokens, modality: str) -> str:
        """Return the name of the part that holds the scales and shifts of such samples."""
        tower = self.encoder.tower(modality)
        if tower == "text":
            return f"{tower}/any"
        frames = self.head.frames(modality)
        return f"{tower}/{frames}x{tokens.tokens.shape[1] // frames}"

    def start_training(self, tokens: Tokens, modality: str, generator: torch.Generator) -> TowerPromptTraining:
        """Return the prompt of such samples as parameters; the stored parts do not change.

        ``generator`` draws a new prefix, and the directions of ``scale_shift_rank``.
        """
        parts = self.initial_parts(tokens, modality, generator)
        return TowerPromptTraining(self, parts, tokens, modality, generator)

    def initial_parts(self, tokens: Tokens, modality: str, generator: torch.Generator) -> dict[str, Tensor]:
        """Return copies of the parts of such samples by name, new ones included; the prefix comes first.

        A new prefix is small random numbers, in units of the blocks' keys and values. New scales and shifts change
        nothing. ``generator`` is used only where a part is new.
        """
        tower, layout = self.encoder.tower(modality), self.layout(tokens, modality)
        count = self.head.prompt_size(tokens, modality) - self.head.prefix(modality).numel()
        prefix, scale_shift = self.stored.get(tower), self.stored.get(layout)
        if prefix is None or (scale_shift is None and count):
            self.bank.reserve(tokens, modality)
            fresh = self.head.split(fresh_prompt(self.bank, tokens, modality, generator), modality)
            prefix = fresh[0].view(self.head.prefix(modality)) if prefix is None else prefix
            scale_shift = fresh[1] if scale_shift is None else scale_shift
        parts = {tower: prefix.clone()}
        if count:
            assert scale_shift is not None
            parts[layout] = F.pad(scale_shift.clone(), (0, max(0, count - len(scale_shift))))  # a text may be longer
        return parts

    def prompt(self, tokens: Tokens, modality: str) -> Tensor | None:
        """Return the prompt ``[P]`` that such samples take; None where the tower has learned none yet.

        It is the prefix alone where no sample of that layout has been learned.
        """
        parts = self.parts(tokens, modality)
        return join_parts(parts) if parts else None

    def parts(self, tokens: Tokens, modality: str) -> dict[str, Tensor]:
        """Return the stored parts of such samples by name: the prefix, then scales and shifts; empty where none are."""
        tower = self.encoder.tower(modality)
        names = (tower, self.layout(tokens, modality)) if tower in self.stored else ()
        return {name: self.stored[name] for name in names if name in self.stored}


class TowerPromptTraining:
    """The prompt of a tower while it is trained.

    Args:
        prompts: the prompts of all towers.
        parts: the parts that training begins from, the prefix first.
        tokens: of the samples.
        modality: of the samples.
        generator: the source of random numbers.

    Attributes:
        groups: the parameters and their learning rates, as ``train_groups`` takes them.
    """

    def __init__(
        self, prompts: TowerPrompts, parts: dict[str, Tensor], tokens: Tokens, modality: str, generator: torch.Generator
    ):
        self._parts = parts
        self._prompt = PromptTraining(prompts.head, join_parts(parts), tokens, modality, prompts.options, generator)
        self.groups = self._prompt.groups

    def parts(self) -> dict[str, Tensor]:
        """Return the parts by name as they are now, differentiable with respect to the parameters."""
        return split_like(self._prompt(), self._parts)

    def result(self) -> dict[str, Tensor]:
        """Return the trained parts by name, without a graph and each in memory of its own."""
        return {name: part.detach().clone() for name, part in self.parts().items()}


def join_parts(parts: dict[str, Tensor]) -> Tensor:
    """Return parts of a prompt as one vector ``[P]``, in their order."""
    return torch.cat([part.flatten() for part in parts.values()])


def split_like(prompt: Tensor, parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Split a vector ``[P]`` into parts of the names and shapes of ``parts``: the inverse of :func:`join_parts`."""
    pieces = prompt.split([part.numel() for part in parts.values()])
    return {name: piece.view(part.shape) for piece, (name, part) in zip(pieces, parts.items())}
