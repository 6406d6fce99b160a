"""Experience replay from a buffer of exemplars.

Every step learns from a batch of the task and from as many samples drawn from the buffer (Chaudhry et al. 2019,
"On tiny episodic memories in continual learning", arXiv 1902.10486), with cross-entropy over all classes seen so far.
Exemplars are trunk tokens in bfloat16, never files; the buffer takes up a task's samples when it has been learned.

``reservoir``: each sample that ever came has the same chance to be in it (Vitter 1985, algorithm R: the i-th takes
slot j = floor(U i) if j < budget).
``herding``: the budget is shared out evenly over the classes; a class's exemplars are in the order of iCaRL (Rebuffi
et al. 2017, arXiv 1611.07725, algorithms 4 and 5):

    p_k = argmin_x || mu - (f(x) + f(p_1) + ... + f(p_{k-1})) / k ||,   f(x) = z / |z|,  mu = mean f(x)

and when classes are added the last of each go. iCaRL's nearest-mean prediction and its distillation are not part of
this method.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.base import Classes, TaskData
from mmcl_fast.methods.shared.embedding import embed_all
from mmcl_fast.methods.shared.options import BatchSize, ClassifierRate, Epochs, MethodOptions, PromptLength, PromptRate
from mmcl_fast.methods.shared.prompt_and_classifier import Tuned, under
from mmcl_fast.methods.shared.prompts import join, subset


class ReplayOptions(MethodOptions):
    prompt_length: PromptLength = 8
    epochs: Epochs = 20
    batch_size: BatchSize = Field(32, description="Samples of the task in a training step, and exemplars beside them")
    lr: PromptRate = 0.01
    classifier_lr: ClassifierRate = 0.003
    budget: int = Field(400, ge=1, description="Exemplars of all classes together")
    selection: Literal["reservoir", "herding"] = Field("reservoir", description="How exemplars are selected")


def reservoir(budget: int, seen: int, new: int, generator: torch.Generator) -> Tensor:
    """Which samples stay when ``new`` ones come after ``seen``.

    Returns:
        ``[min(budget, seen + new)]`` int64, sorted places in [those kept so far, the new ones]; min(budget, seen) are
        kept so far.
    """
    kept = min(budget, seen)
    slots = list(range(kept))
    drawn = torch.rand(new, generator=generator, dtype=torch.float64).tolist()
    for i, u in enumerate(drawn):
        if len(slots) < budget:
            slots.append(kept + i)
        elif (slot := int(u * (seen + i + 1))) < budget:
            slots[slot] = kept + i
    return torch.tensor(sorted(slots), dtype=torch.int64)


def herd(features: Tensor, count: int) -> Tensor:
    """Rows of ``features`` ``[n, D]`` in the order of herding, the first ``count`` of them, ``[min(count, n)]``."""
    mean, total = features.mean(0), torch.zeros_like(features[0])
    free = torch.ones(len(features), dtype=torch.bool, device=features.device)
    chosen: list[int] = []
    for k in range(1, min(count, len(features)) + 1):
        distance = (mean - (total + features) / k).norm(dim=1)
        chosen.append(int(distance.masked_fill(~free, float("inf")).argmin()))
        total, free[chosen[-1]] = total + features[chosen[-1]], False
    return torch.tensor(chosen, dtype=torch.int64, device=features.device)


def quotas(budget: int, classes: int) -> list[int]:
    """How many exemplars each class may have: even shares, the remainder to the oldest classes. No class's share
    grows when classes are added."""
    return [budget // classes + (c < budget % classes) for c in range(classes)]


def bare(tokens: Tokens) -> Tokens:
    """What the head reads of them, in bfloat16."""
    return Tokens(tokens.tokens.bfloat16(), tokens.query[:, :0], tokens.mask)


class Replay(Tuned):
    name = "replay"
    Options = ReplayOptions

    def __init__(self, encoder: Encoder, options: ReplayOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.exemplars: dict[str, Tokens] = {}  # modality -> its rows of the buffer
        self.labels: dict[str, Tensor] = {}  # ``[n]`` int64 of each
        self.seen = 0  # samples that ever came

    def learn(self, data: TaskData, classes: Classes) -> None:
        generator, size = self.generator(data.index, 3), self.options.batch_size

        def loss(z: Tensor, rows: Tensor, prompt: Tensor) -> Tensor:
            parts, labels = [z], [data.labels[rows]]
            for modality, old in self._drawn(size, generator):
                own = (
                    prompt
                    if self.encoder.tower(modality) == self.encoder.tower(data.modality)
                    else self.prompt(modality)
                )
                parts.append(self.encoder.head(subset(self.exemplars[modality], old), own, modality))
                labels.append(self.labels[modality][old])
            return F.cross_entropy(self.classifier(torch.cat(parts)), torch.cat(labels))

        self.fit(data, classes, loss, generator)
        with self.phase("statistics"):
            self._take_up(data, len(classes))

    def _drawn(self, count: int, generator: torch.Generator) -> list[tuple[str, Tensor]]:
        """``count`` rows of the buffer, with replacement, by modality."""
        sizes = [len(labels) for labels in self.labels.values()]
        if not sum(sizes):
            return []
        rows, out, start = torch.randint(sum(sizes), (count,), generator=generator), [], 0
        for modality, size in zip(self.labels, sizes):
            own = rows[(rows >= start) & (rows < start + size)] - start
            if len(own):
                out.append((modality, own.to(self.labels[modality].device)))
            start += size
        return out

    def _take_up(self, data: TaskData, classes: int) -> None:
        if self.options.selection == "reservoir":
            self._by_reservoir(data)
        else:
            self._by_herding(data, quotas(self.options.budget, classes))
        self.seen += len(data.labels)

    def _by_reservoir(self, data: TaskData) -> None:
        kept, start = reservoir(self.options.budget, self.seen, len(data.labels), self.generator(data.index, 4)), 0
        for modality, labels in list(self.labels.items()):
            own = kept[(kept >= start) & (kept < start + len(labels))] - start
            start += len(labels)
            self._keep(modality, own.to(labels.device))
        self._add(data, (kept[kept >= start] - start).to(data.labels.device))

    def _by_herding(self, data: TaskData, most: list[int]) -> None:
        for modality, labels in list(self.labels.items()):
            rows = [(labels == c).nonzero()[: most[c], 0] for c in labels.unique().tolist()]
            self._keep(modality, torch.cat(rows))
        z = F.normalize(self.reuse.one(self.encoder, data.tokens, data.modality, self.prompt(data.modality)), dim=1)
        for c in data.classes:
            self._herd_class(data, c, (data.labels == c).nonzero()[:, 0], z, most[c])

    def _herd_class(self, data: TaskData, c: int, new: Tensor, z: Tensor, count: int) -> None:
        """A class met again is chosen anew from its exemplars and its new samples."""
        labels = self.labels.get(data.modality)
        old = new[:0] if labels is None else (labels == c).nonzero()[:, 0]
        if labels is None or not len(old):
            self._add(data, new[herd(z[new], count)])
            return
        prompt = self.bank.prompts[self.encoder.tower(data.modality)]
        before = embed_all(self.encoder, self.exemplars[data.modality], data.modality, [prompt], rows=old)
        again = subset(self.exemplars[data.modality], old)
        order = herd(torch.cat([F.normalize(before, dim=1), z[new]]), count)
        both = join(again, bare(subset(data.tokens, new)))
        self._keep(data.modality, (labels != c).nonzero()[:, 0])
        self._append(data.modality, subset(both, order), torch.full_like(order, c))

    def _keep(self, modality: str, rows: Tensor) -> None:
        tokens, labels = self.exemplars.pop(modality), self.labels.pop(modality)
        if len(rows):
            self.exemplars[modality], self.labels[modality] = subset(tokens, rows), labels[rows]

    def _add(self, data: TaskData, rows: Tensor) -> None:
        self._append(data.modality, bare(subset(data.tokens, rows)), data.labels[rows])

    def _append(self, modality: str, tokens: Tokens, labels: Tensor) -> None:
        if not len(labels):
            return
        if modality in self.exemplars:
            tokens = join(self.exemplars[modality], tokens)
            labels = torch.cat([self.labels[modality], labels])
        self.exemplars[modality], self.labels[modality] = tokens, labels

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, values = super().state()
        for modality, rows in self.exemplars.items():
            tensors[f"exemplars/{modality}/tokens"] = rows.tokens
            tensors[f"exemplars/{modality}/labels"] = self.labels[modality]
            if rows.mask is not None:
                tensors[f"exemplars/{modality}/mask"] = rows.mask
        return tensors, {**values, "modalities": list(self.exemplars), "seen": self.seen}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        super().load_state(tensors, values)
        self.exemplars, self.labels, self.seen = {}, {}, values["seen"]
        for modality in values["modalities"]:
            own = under(f"exemplars/{modality}/", tensors)
            nothing = torch.zeros(len(own["labels"]), 0, device=own["labels"].device)
            self.exemplars[modality] = Tokens(own["tokens"], nothing, own.get("mask"))
            self.labels[modality] = own["labels"]
