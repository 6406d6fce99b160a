"""Updates of the head's weights, W + dW, that leave the encoder as it is.

The update of a tower is one flat tensor. ``LowRankHead`` takes it in the place of a prompt, so embeddings under it are
cached as those under a prompt are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.errors import ConfigError
from mmcl_fast.methods.shared.embedding import BATCH
from mmcl_fast.methods.shared.prompts import subset

AdaptedLayers = Literal["key_value", "all"]

# Names of the linear layers of an attention module, by the names of this package and of transformers.
ATTENTION = (("q", "k", "v"), ("q_proj", "k_proj", "v_proj"))


@dataclass(frozen=True)
class WeightRows:
    """Some rows of a linear layer's weight.

    Attributes:
        layer: the layer's name in ``LowRankHead.module``.
        first, end: the rows ``first`` to ``end - 1``.
    """

    layer: str
    first: int
    end: int


@dataclass(frozen=True)
class UpdatedWeights:
    """Rows of one or more layers that read the same input; they share one update ``[rows, width]``.

    Attributes:
        parts: the rows of each layer, in the order of the update's rows.
        width: number of inputs.
    """

    parts: tuple[WeightRows, ...]
    width: int

    @property
    def rows(self) -> int:
        return sum(part.end - part.first for part in self.parts)

    @property
    def size(self) -> int:
        return self.rows * self.width


def find_weights(module: nn.Module, layers: AdaptedLayers) -> list[UpdatedWeights]:
    """Return the weights to update. Layers that read the same input come together.

    Args:
        module: holds the layers.
        layers: ``key_value``: the projections to keys and values of attention. ``all``: every linear layer.
    """
    found: list[UpdatedWeights] = []
    for path, parent in module.named_modules():
        linear = {name: child for name, child in parent.named_children() if isinstance(child, nn.Linear)}
        groups: list[tuple[str, ...]] = [names for names in ATTENTION if set(names) <= set(linear)]
        together = {name for names in groups for name in names}
        if layers == "all":
            groups += [(name,) for name in linear if name not in together]
        else:
            groups = [names[1:] for names in groups] + [("qkv",)] * ("qkv" in linear)
        for names in groups:
            parts = []
            for name in names:
                count = linear[name].out_features
                first = count // 3 if layers == "key_value" and name == "qkv" else 0  # queries, keys, values
                parts.append(WeightRows(f"{path}.{name}" if path else name, first, count))
            found.append(UpdatedWeights(tuple(parts), linear[names[0]].in_features))
    return found


class _HeadModule(nn.Module):
    """The encoder's head as a module, whose parameters ``functional_call`` can replace for one call."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.parts = nn.ModuleList(encoder.trainable_modules())
        self.encoder = encoder

    def forward(self, tokens: Tokens, modality: str) -> Tensor:
        return self.encoder.head(tokens, None, modality)


class LowRankHead:
    """The head with W + dW in place of W; a ``methods.shared.embedding.Head``.

    Args:
        encoder: its weights are never changed.
        layers: the layers that get an update, see ``find_weights``.
        method: the method's name, for messages.

    Attributes:
        weights: all weights that can get an update.
        of_tower: tower -> positions in ``weights`` of what its samples pass, in the order of the tower's update.
            ``input_moments`` fills it.

    Raises:
        ConfigError: the encoder has no such layers.
    """

    def __init__(self, encoder: Encoder, layers: AdaptedLayers, method: str):
        self.encoder, self.dim = encoder, encoder.dim
        self.module = _HeadModule(encoder)
        self.weights = find_weights(self.module.parts, layers)
        self.of_tower: dict[str, list[int]] = {}
        if not self.weights:
            advice = (
                'set method.options.layers = "all"'
                if find_weights(self.module.parts, "all")
                else "it returns no linear layer from trainable_modules; use another encoder or method"
            )
            raise ConfigError(f'method {method}: layers = "{layers}" finds no layer in {encoder.name}; {advice}')

    @property
    def device(self) -> torch.device:
        return self.encoder.device

    def head(self, tokens: Tokens, update: Tensor | None, modality: str) -> Tensor:
        """Return z ``[B, D]``, differentiable with respect to ``update``.

        Args:
            tokens: B samples from the trunk.
            update: the tower's flat update float32, from ``flatten``; None: the frozen weights.
            modality: the samples' modality.
        """
        if update is None:
            return self.encoder.head(tokens, None, modality)
        weights = [self.weights[i] for i in self.of_tower[self.encoder.tower(modality)]]
        changed: dict[str, Tensor] = {}
        for group, flat in zip(weights, update.split([group.size for group in weights])):
            sizes = [part.end - part.first for part in group.parts]
            for part, rows in zip(group.parts, flat.view(-1, group.width).split(sizes)):
                name = f"{part.layer}.weight"
                weight = self.module.parts.get_parameter(name)
                delta = F.pad(rows, (0, 0, part.first, len(weight) - part.end))
                changed[f"parts.{name}"] = (weight.float() + delta).to(weight.dtype)
        return functional_call(self.module, changed, (tokens, modality))

    def flatten(self, tower: str, updates: dict[int, Tensor]) -> Tensor:
        """Return a tower's flat update of dW ``[rows, width]`` by position in ``weights``."""
        return torch.cat([updates[i].flatten() for i in self.of_tower[tower]])

    @torch.no_grad()
    def input_moments(self, tokens: Tokens, update: Tensor | None, modality: str) -> dict[int, Tensor]:
        """Return the second moments of what the layers read, for the weights that these samples pass.

        Args:
            tokens: n samples from the trunk; padding tokens are left out.
            update: as for ``head``.
            modality: the samples' modality.

        Returns:
            Position in ``weights`` -> mean of x x' over all samples and tokens, ``[width, width]`` float64.
        """
        sums: dict[int, Tensor] = {}
        counts: dict[int, int] = {}
        mask: Tensor | None = None

        def add(position: int, x: Tensor) -> None:
            if mask is not None and x.dim() == 3 and x.shape[:2] == mask.shape:
                x = x[mask]
            x = x.reshape(-1, x.shape[-1]).float()
            sums[position] = sums.get(position, 0.0) + (x.T @ x).double()
            counts[position] = counts.get(position, 0) + len(x)

        hooks = [
            self.module.parts.get_submodule(group.parts[0].layer).register_forward_pre_hook(
                lambda _, inputs, position=i: add(position, inputs[0])
            )
            for i, group in enumerate(self.weights)
        ]
        try:
            for rows in torch.arange(len(tokens)).split(BATCH):
                batch = subset(tokens, rows)
                mask = batch.mask
                self.head(batch, update, modality)
        finally:
            for hook in hooks:
                hook.remove()
        self.of_tower.setdefault(self.encoder.tower(modality), sorted(sums))
        return {i: total / max(counts[i], 1) for i, total in sums.items()}
