"""The mean trunk tokens of each class, which show how a prompt's change moves classes of earlier tasks.

The trunk is frozen, so these means never go out of date. The head embeds them under any prompt. Self-regularisation
keeps the embeddings of old classes in place on them, and what still moves is added to the classes' feature means.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.encoders.base import Tokens


class TokenMeans:
    """Mean trunk tokens by modality and class, in bfloat16: ``N * width * 2`` bytes a class.

    Attributes:
        classes: modality -> the ids of its K classes.
        counts: modality -> ``[K, N]`` float32, the number of samples that have each token.
        means: modality -> ``[K, N, width]`` bfloat16; 0 where no sample has the token.
    """

    def __init__(self) -> None:
        self.classes: dict[str, list[int]] = {}
        self.counts: dict[str, Tensor] = {}
        self.means: dict[str, Tensor] = {}

    def add(self, modality: str, classes: Sequence[int], tokens: Tokens, labels: Tensor) -> None:
        """Add samples of a modality's classes; a class met again is merged.

        Args:
            modality: of the samples.
            classes: ids of their classes.
            tokens: the trunk's output of n samples.
            labels: ``[n]``, ids of classes.
        """
        x, mask = tokens.tokens, tokens.mask
        count, width = x.shape[1:]
        known = self.classes.setdefault(modality, [])
        means = self.means.get(modality, x.new_empty(0, count, width, dtype=torch.bfloat16))
        counts = self.counts.get(modality, x.new_empty(0, count, dtype=torch.float32))
        before = set(known)
        more, new = max(0, count - means.shape[1]), [c for c in classes if c not in before]  # texts may be longer now
        known.extend(new)
        means, counts = F.pad(means, (0, 0, 0, more, 0, len(new))), F.pad(counts, (0, more, 0, len(new)))
        number = {c: row for row, c in enumerate(known)}
        for c in classes:
            rows, row = (labels == c).nonzero().flatten(), number[c]
            real = x.new_ones(len(rows), count, dtype=torch.float32) if mask is None else mask[rows].float()
            total = counts[row].clone()
            total[:count] += real.sum(0)
            added = (x[rows].float() * real.unsqueeze(2)).sum(0)
            sums = means[row].float() * counts[row].unsqueeze(1)
            sums[:count] += added
            means[row] = (sums / total.clamp(min=1).unsqueeze(1)).bfloat16()
            counts[row] = total
        self.means[modality], self.counts[modality] = means, counts

    def others(self, modality: str, current: Collection[int], masked: bool) -> tuple[list[int], Tokens | None]:
        """Return the ids of a modality's classes outside ``current``, and their mean tokens; None without such a class.

        The query of these ``Tokens`` is empty: the head does not read it.

        Args:
            modality: of the classes.
            current: ids of the classes that are left out.
            masked: the trunk gives the modality's tokens a mask; its head may need one where all tokens are real too.
        """
        known = self.classes.get(modality, [])
        rows = [row for row, c in enumerate(known) if c not in current]
        if not rows:
            return [], None
        means, real = self.means[modality][rows], self.counts[modality][rows] > 0
        tokens = Tokens(means, means.new_empty(len(rows), 0), real if masked else None)
        return [known[row] for row in rows], tokens

    def remove(self, label: int) -> None:
        """Take a class's mean tokens out. The ids of later classes become smaller by one."""
        for modality, known in list(self.classes.items()):
            kept = [row for row, c in enumerate(known) if c != label]
            if kept:
                self.means[modality], self.counts[modality] = self.means[modality][kept], self.counts[modality][kept]
                self.classes[modality] = [known[row] - (known[row] > label) for row in kept]
            else:
                del self.classes[modality], self.means[modality], self.counts[modality]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"mean/{m}": x for m, x in self.means.items()} | {f"count/{m}": x for m, x in self.counts.items()}
        return tensors, {m: list(ids) for m, ids in self.classes.items()}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Take over what :meth:`state` returned.

        Raises:
            ValueError: shapes do not belong together, or there is not one mean for each class.
        """
        self.classes = {m: [int(c) for c in ids] for m, ids in values.items()}
        self.means = {m: tensors[f"mean/{m}"] for m in self.classes}
        self.counts = {m: tensors[f"count/{m}"] for m in self.classes}
        for m, ids in self.classes.items():
            means, counts = self.means[m], self.counts[m]
            if (
                means.dim() != 3
                or counts.shape != means.shape[:2]
                or len(means) != len(set(ids))
                or len(ids) != len(means)
            ):
                shapes = f"means {tuple(means.shape)}, counts {tuple(counts.shape)}"
                raise ValueError(f"mean tokens of {m}: {shapes} for {len(ids)} classes")
            if not means.is_floating_point() or not counts.is_floating_point():
                raise ValueError(f"mean tokens of {m}: of types {means.dtype} and {counts.dtype}")
