"""Experience replay from a buffer of exemplars.

Source: Chaudhry et al. 2019, "On tiny episodic memories in continual learning", arXiv 1902.10486. Every step learns
from a batch of the task and from as many samples drawn from the buffer. The loss is cross-entropy over all classes seen
so far.
Exemplars are trunk tokens in bfloat16, never files. After a task is learned, its samples compete for the buffer.

``selection = "reservoir"``: each sample that ever came is in the buffer with the same probability (Vitter 1985,
algorithm R: the i-th sample takes slot j = floor(U i) if j < budget).

``selection = "herding"``: the budget is divided evenly among the classes. A class's exemplars are in the order of iCaRL
(Rebuffi et al. 2017, arXiv 1611.07725, algorithms 4 and 5):

    p_k = argmin_x || mu - (f(x) + f(p_1) + ... + f(p_{k-1})) / k ||,   mu = mean f(x)

f is what the classifier reads, at unit length: z / |z|, or u / |u| with ``features = "zq"``. When classes are added,
the last exemplars of each class go.

Departures: iCaRL's nearest-mean prediction and its distillation are not part of this method. The papers do not have
``token_scale_shift``, nor a classifier that reads q (``features``). With q an exemplar keeps its query too.

Options: :class:`ReplayOptions`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.base import Classes, TaskData
from mmcl_fast.methods.shared.embedding import embed_all, unit_query
from mmcl_fast.methods.shared.options import BatchSize
from mmcl_fast.methods.shared.prompt_and_classifier import PromptAndClassifier, PromptAndClassifierOptions, strip_prefix
from mmcl_fast.methods.shared.prompt_training import PrefixRate, TextRate, channel_dropout, drop_random_channels
from mmcl_fast.methods.shared.prompts import concat_tokens, subset
from mmcl_fast.methods.shared.tower_prompts import join_parts
from mmcl_fast.option_fields import Tunable, TunableChoices


class ReplayOptions(PromptAndClassifierOptions):
    batch_size: BatchSize = Field(32, description="Samples of the task in a training step, and as many exemplars")
    lr: Annotated[PrefixRate, Tunable(1e-3, 1.0)] = 0.015
    text_lr: Annotated[TextRate, TunableChoices("auto", 0.015, 0.05, 0.15, 0.5, 1.5)] = "auto"
    budget: int = Field(400, ge=1, description="Exemplars of all classes together")
    selection: Literal["reservoir", "herding"] = Field("reservoir", description="How exemplars are selected")


def reservoir(budget: int, seen: int, new: int, generator: torch.Generator) -> Tensor:
    """Select the samples that are in the buffer after ``new`` ones came after ``seen``.

    Returns:
        ``[min(budget, seen + new)]`` int64, sorted positions in the list of the exemplars so far, min(budget, seen) of
        them, followed by the new samples.
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
    """Return row numbers of features ``[n, D]`` in the order of herding, the first ``count`` of them."""
    mean, total = features.mean(0), torch.zeros_like(features[0])
    free = torch.ones(len(features), dtype=torch.bool, device=features.device)
    chosen: list[int] = []
    for k in range(1, min(count, len(features)) + 1):
        distance = (mean - (total + features) / k).norm(dim=1)
        chosen.append(int(distance.masked_fill(~free, float("inf")).argmin()))  # no sample twice
        total, free[chosen[-1]] = total + features[chosen[-1]], False
    return torch.tensor(chosen, dtype=torch.int64, device=features.device)


def quotas(budget: int, classes: int) -> list[int]:
    """Return how many exemplars each class may have: even shares, the remainder to the oldest classes.

    No class's quota grows when classes are added.
    """
    return [budget // classes + (c < budget % classes) for c in range(classes)]


def exemplar(tokens: Tokens, keep_query: bool) -> Tokens:
    """Return what is kept of samples: their tokens in bfloat16, and with ``keep_query`` their queries, in float32."""
    return Tokens(tokens.tokens.bfloat16(), tokens.query if keep_query else tokens.query[:, :0], tokens.mask)


class Replay(PromptAndClassifier):
    """Experience replay over one prompt for each tower and a linear classifier.

    Attributes:
        exemplars: modality -> its part of the buffer.
        labels: modality -> ``[n]`` int64, the exemplars' classes.
        seen: the number of samples that ever came.
    """

    name = "replay"
    Options = ReplayOptions
    class_state: ClassVar[tuple[str, ...]] = ("classifier/", "exemplars/")

    def __init__(self, encoder: Encoder, options: ReplayOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.exemplars: dict[str, Tokens] = {}
        self.labels: dict[str, Tensor] = {}
        self.seen = 0

    def learn(self, data: TaskData, classes: Classes) -> None:
        generator, size, dropped = self.generator(data.index, 3), self.options.batch_size, channel_dropout(self.options)

        def loss(logits: Tensor, rows: Tensor, parts: dict[str, Tensor]) -> Tensor:
            all_logits, labels = [logits], [data.labels[rows]]
            for modality, drawn in self._draw(size, generator):
                old = subset(self.exemplars[modality], drawn)
                # Parts that are being trained are taken as they are in this step.
                stored = self.prompts.parts(old, modality)
                prompt = join_parts({name: parts.get(name, part) for name, part in stored.items()})
                old = drop_random_channels(old, len(drawn), dropped, generator)
                z = self.prompts.head.head(old, prompt, modality)
                all_logits.append(self.classifier(z, unit_query(old)))
                labels.append(self.labels[modality][drawn])
            return F.cross_entropy(torch.cat(all_logits), torch.cat(labels))

        self.fit(data, classes, loss, generator)
        with self.phase("statistics"):
            if self.options.selection == "reservoir":
                self._update_by_reservoir(data)
            else:
                self._update_by_herding(data, quotas(self.options.budget, len(classes)))
            self.seen += len(data.labels)

    def _draw(self, count: int, generator: torch.Generator) -> list[tuple[str, Tensor]]:
        """Draw ``count`` exemplars with replacement; returns (modality, row numbers in its part of the buffer)."""
        sizes = [len(labels) for labels in self.labels.values()]
        if not sum(sizes):
            return []
        rows, out, start = torch.randint(sum(sizes), (count,), generator=generator), [], 0
        for modality, size in zip(self.labels, sizes):
            found = rows[(rows >= start) & (rows < start + size)] - start
            if len(found):
                out.append((modality, found.to(self.labels[modality].device)))
            start += size
        return out

    def _update_by_reservoir(self, data: TaskData) -> None:
        kept, start = reservoir(self.options.budget, self.seen, len(data.labels), self.generator(data.index, 4)), 0
        for modality, labels in list(self.labels.items()):
            rows = kept[(kept >= start) & (kept < start + len(labels))] - start
            start += len(labels)
            self._keep_rows(modality, rows.to(labels.device))
        self._add_samples(data, (kept[kept >= start] - start).to(data.labels.device))

    def _update_by_herding(self, data: TaskData, quota: list[int]) -> None:
        """Cut every class to its quota, then add the task's classes. ``quota``: class id -> exemplars."""
        for modality, labels in list(self.labels.items()):
            rows = [(labels == c).nonzero()[: quota[c], 0] for c in labels.unique().tolist()]
            self._keep_rows(modality, torch.cat(rows))
        features = F.normalize(self.features(data.tokens, data.modality), dim=1)
        for c in data.classes:
            self._herd_class(data, c, (data.labels == c).nonzero()[:, 0], features, quota[c])

    def _herd_class(self, data: TaskData, c: int, new: Tensor, features: Tensor, count: int) -> None:
        """Select the exemplars of a class; a class met again is selected from its exemplars and its new samples.

        Args:
            data: the task.
            c: the class.
            new: row numbers of its samples in the task.
            features: f ``[n, d]``, unit rows of all the task's samples.
            count: exemplars to select.
        """
        labels = self.labels.get(data.modality)
        old = new[:0] if labels is None else (labels == c).nonzero()[:, 0]
        if labels is None or not len(old):
            self._add_samples(data, new[herd(features[new], count)])
            return
        kept = self.exemplars[data.modality]
        prompt = self.prompts.prompt(kept, data.modality)
        assert prompt is not None
        old_z = embed_all(self.prompts.head, kept, data.modality, [prompt], rows=old)
        old_tokens = subset(kept, old)
        old_features = F.normalize(self.classifier.features(old_z, unit_query(old_tokens)), dim=1)
        order = herd(torch.cat([old_features, features[new]]), count)
        both = concat_tokens(old_tokens, self._exemplars_of(data, new))
        self._keep_rows(data.modality, (labels != c).nonzero()[:, 0])  # the class's exemplars come back below
        self._append(data.modality, subset(both, order), torch.full_like(order, c))

    def _keep_rows(self, modality: str, rows: Tensor) -> None:
        """Remove all but some exemplars of a modality."""
        tokens, labels = self.exemplars.pop(modality), self.labels.pop(modality)
        if len(rows):
            self.exemplars[modality], self.labels[modality] = subset(tokens, rows), labels[rows]

    def _add_samples(self, data: TaskData, rows: Tensor) -> None:
        """Add samples of the task to the buffer."""
        self._append(data.modality, self._exemplars_of(data, rows), data.labels[rows])

    def _exemplars_of(self, data: TaskData, rows: Tensor) -> Tokens:
        return exemplar(subset(data.tokens, rows), self.classifier.reads_query)

    def _append(self, modality: str, tokens: Tokens, labels: Tensor) -> None:
        if not len(labels):
            return
        if modality in self.exemplars:
            tokens = concat_tokens(self.exemplars[modality], tokens)
            labels = torch.cat([self.labels[modality], labels])
        self.exemplars[modality], self.labels[modality] = tokens, labels

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, values = super().state()
        for modality, exemplars in self.exemplars.items():
            tensors[f"exemplars/{modality}/tokens"] = exemplars.tokens
            tensors[f"exemplars/{modality}/labels"] = self.labels[modality]
            if self.classifier.reads_query:
                tensors[f"exemplars/{modality}/query"] = exemplars.query
            if exemplars.mask is not None:
                tensors[f"exemplars/{modality}/mask"] = exemplars.mask
        return tensors, {**values, "modalities": list(self.exemplars), "seen": self.seen}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        super().load_state(tensors, values)
        self.exemplars, self.labels, self.seen = {}, {}, values["seen"]
        for modality in values["modalities"]:
            saved = strip_prefix(f"exemplars/{modality}/", tensors)
            no_query = torch.zeros(len(saved["labels"]), 0, device=saved["labels"].device)
            self.exemplars[modality] = Tokens(saved["tokens"], saved.get("query", no_query), saved.get("mask"))
            self.labels[modality] = saved["labels"]
