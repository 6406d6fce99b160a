"""COMM: continual learning for multiple modalities (Jin and Kim, arXiv 2503.08064).

The paper's equations are not public to us. Every formula here is our choice, and an option switches it off or changes
it. docs/method.md has the formulas.

A task of modality m is learned in these steps: relevance, prompts, aggregation within the modality, reading prompts,
feature memory, re-alignment.

Options: :class:`~mmcl_fast.methods.comm.options.CommOptions`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.comm.memory import FeatureMemory
from mmcl_fast.methods.comm.migration import migrate_state
from mmcl_fast.methods.comm.options import CommOptions
from mmcl_fast.methods.comm.penalty_share import PenaltyShare
from mmcl_fast.methods.comm.prompt_learning import PromptLearner
from mmcl_fast.methods.comm.realignment import Realigner
from mmcl_fast.methods.comm.relevance import Relevance
from mmcl_fast.methods.comm.removal import describe_remains, drop_modality, remove_statistics
from mmcl_fast.methods.comm.token_means import TokenMeans
from mmcl_fast.methods.shared.embedding import embed_all, merge_equal_rows, unit_query
from mmcl_fast.methods.shared.prompt_and_classifier import strip_prefix
from mmcl_fast.methods.shared.reading_prompts import ReadingPrompts
from mmcl_fast.methods.shared.token_scale_shift import TokenScaleShiftBank

__all__ = ["Comm", "CommOptions"]

# Queries sampled from the feature memory: most of a class, and most in all.
RELEVANCE_QUERIES = (64, 2048)  # to train the mlp
CONTRIBUTION_QUERIES = (32, 512)  # to measure mean contributions


class Comm(Method):
    """COMM; see the module's docstring.

    Attributes:
        relevance: c(x), the contribution of each modality to a sample.
        bank: P_m, a prompt for each modality.
        reading: the further prompts under which samples are embedded.
        memory: the statistics of each class's features.
        token_means: the mean trunk tokens of each class.
        penalty_share: the penalty of the re-alignment's closed form, relative to cross-validation's.
        realigner: the re-alignment of embeddings.
        mean_contributions: modality -> ``[M]``, the mean of c(x) over queries sampled from its classes' statistics, in
            the order of ``relevance.modalities``.
        prompts_pay: modality -> what each test with ``prompts = "auto"`` measured and decided.
    """

    name = "comm"
    scores_texts = True
    supports_distributed = True
    class_state = ("memory/class/", "tokens/")
    Options = CommOptions

    def __init__(self, encoder: Encoder, options: CommOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        o = options
        self.relevance = Relevance(encoder.query_dim, o.relevance, o.tau, o.relevance_penalty)
        self.bank = TokenScaleShiftBank(encoder, o.prompt_length, o.token_scale_shift, o.text_scale_shift, regrid=True)
        count = o.reading_prompts if o.prompts and o.token_scale_shift else 0
        self.reading = ReadingPrompts(encoder, count, o.prompt_length, o.text_scale_shift)
        self.token_means = TokenMeans()
        self.memory = FeatureMemory(o.class_rank, o.modality_rank, o.shrink)
        self.penalty_share = PenaltyShare()
        self.realigner = Realigner(encoder.dim, rank=o.rank, reads_query=o.reads_query)
        self.mean_contributions: dict[str, Tensor] = {}
        self.prompts_pay: dict[str, list[dict[str, Any]]] = {}

    def learn(self, data: TaskData, classes: Classes) -> None:
        """Learn one task by the steps that the module lists."""
        modality = data.modality
        first = modality not in self.relevance.modalities
        if self.options.prompts:
            self.bank.reserve(data.tokens, modality)
        with self.phase("relevance"):
            query = unit_query(data.tokens)
            others = {} if self.options.relevance == "analytic" else self._sample_all_queries(data.index)
            self.relevance.learn(query, modality, others, self.generator(data.index, 1), self.checkpoints)
        with self.phase("features"):
            before = None if first else self._features(data.tokens, modality, query)
        old = self.bank.prompts.get(modality)
        masked = data.tokens.mask is not None
        old_classes = self.token_means.others(modality, data.classes, masked)
        if self.options.prompts and (old is None or self.options.prompt_updates):
            self._learn_prompt(data, classes, query, old_classes[1], first)
        with self.phase("features"):
            if before is None:
                self._choose_reading_prompts(data)
                after = self._features(data.tokens, modality, query)
            else:  # only z has changed
                z = self._embed(data.tokens, modality, self._routing(query))
                after = torch.cat([F.normalize(z, dim=-1), before[:, self.encoder.dim :]], dim=1)
        with self.phase("statistics"):
            if before is not None and self.options.drift:
                # A class that comes again moves too, before its new samples are merged.
                self._correct_drift(modality, before, after, old, *self.token_means.others(modality, (), masked))
            if self._penalty_is_chosen:
                width = after.shape[1] if self.options.reads_query else self.encoder.dim
                self.penalty_share.observe(self.memory, data, after, self.relevance.modalities, width)
            self.memory.add(modality, data.classes, after, data.labels)
            # Texts have no common layout: the mean of several is like none of them, and its embedding says nothing.
            common_layout = not masked and self.encoder.tower(modality) != "text"
            if self.options.prompts and self.options.token_means and common_layout:
                self.token_means.add(modality, data.classes, data.tokens, data.labels)
            self._update_mean_contributions(data.index)
        self.update_class_texts(classes, data.index)

    def _learn_prompt(self, data: TaskData, classes: Classes, query: Tensor, old: Tokens | None, first: bool) -> None:
        """Learn the modality's prompt, where it pays; see :mod:`mmcl_fast.methods.comm.prompt_learning`."""
        o, modality = self.options, data.modality
        names, shares = self.bank.tower_shares(
            modality, self._routing(query), self.relevance.modalities, o.least_share, modality
        )
        learner = PromptLearner(
            self, self.bank, data, classes, query, names, merge_equal_rows(shares), old, first, self.prompts_pay
        )
        if (prompt := learner.learn()) is not None:
            self.bank.prompts[modality] = prompt

    def _choose_reading_prompts(self, data: TaskData) -> None:
        """Choose the reading prompts of a modality on its first task, if it learned a prompt there."""
        if data.modality in self.bank.prompts:
            generator = self.generator(data.index, 8)
            self.reading.choose(data.modality, data.tokens, self.bank, self.options.blending, generator)
        if self.reading.modalities:  # until a modality has reading prompts, no feature has room for them
            o, encoder = self.options, self.encoder
            self.memory.widen(encoder.dim + encoder.query_dim + o.reading_prompts * encoder.dim)

    def _sample_all_queries(self, index: int) -> dict[str, Tensor]:
        """Modality -> sampled unit queries of its classes; ``index``: of the task, for the generator."""
        generator = self.generator(index, 2)
        return {m: self._sample_queries(m, *RELEVANCE_QUERIES, generator) for m in self.relevance.modalities}

    def _sample_queries(self, modality: str, per_class: int, limit: int, generator: torch.Generator) -> Tensor:
        """Sample at most ``limit`` unit queries of a modality: fewer per class first, then fewer classes.

        Args:
            modality: whose classes are taken, from the feature memory.
            per_class: most queries of a class.
            limit: most queries in all.
            generator: the source of random numbers.
        """
        count = max(1, min(per_class, limit // len(self.memory.labels(modality))))
        return self._sampled_queries(self.memory.sample(modality, count, generator, limit))

    def _sampled_queries(self, u: Tensor) -> Tensor:
        """Return the unit queries ``[n, Dq]`` in sampled features ``[n, D_u]``."""
        return F.normalize(u[:, self.encoder.dim :][:, : self.encoder.query_dim], dim=1)

    def _update_mean_contributions(self, index: int) -> None:
        """Measure mean contributions to every modality's samples, on sampled queries: no old sample is needed."""
        generator = self.generator(index, 5)
        for m in self.relevance.modalities:
            queries = self._sample_queries(m, *CONTRIBUTION_QUERIES, generator)
            self.mean_contributions[m] = self.relevance(queries).mean(0)

    def _correct_drift(
        self, modality: str, before: Tensor, after: Tensor, old: Tensor | None, ids: list[int], tokens: Tokens | None
    ) -> None:
        """Move the means of the modality's old classes as the new prompt moves their embeddings.

        Classes without mean tokens move by the drift of the task's samples.

        Args:
            modality: of the task.
            before: ``[n, D_u]``, features of its samples under the prompts before it.
            after: the same under the prompts of now.
            old: the modality's prompt before the task; None: the bare head.
            ids: the old classes that have mean tokens.
            tokens: these mean tokens, ``TokenMeans.others`` returns both; None: there are none.
        """
        dim, stay = self.encoder.dim, {*ids}
        if not stay.issuperset(self.memory.labels(modality)):
            moved = after[:, :dim] - before[:, :dim]
            self.memory.correct_drift(modality, stay, moved, before, self.options.drift_width, dim)
        if tokens is not None and (now := self.bank.prompts.get(modality)) is not old and now is not None:
            start = [] if old is None else [old]
            z = [F.normalize(embed_all(self.bank.head, tokens, modality, p), dim=1) for p in (start, [now])]
            self.memory.move_means(modality, ids, z[1] - z[0])

    @property
    def _penalty_is_chosen(self) -> bool:
        """Whether the options have a closed form whose penalty is chosen after each task."""
        o = self.options
        return o.realignment != "off" and o.start == "closed" and o.penalty == "auto"

    def update_class_texts(self, classes: Classes, index: int) -> None:
        """Compute the re-alignment anew from the feature memory; ``index``: of the task, for the generator."""
        o, names = self.options, self.relevance.modalities
        if o.realignment == "off":
            return
        generator, texts = self.generator(index, 4), classes.embedding
        with self.phase("re-alignment", o.steps if o.realignment == "trained" else None) as shown:
            if o.start == "closed":
                self.realigner.solve(self.memory, texts, names, o.penalty, o.dual_targets, self.penalty_share.value)
            else:
                width = len(self.memory.pooled[names[0]].mean)
                self.realigner.start_at_zero(width, names, generator, texts.device)
            if o.realignment == "trained":
                self.realigner.train(
                    self.memory,
                    texts,
                    names,
                    lambda u: self._routing(self._sampled_queries(u)),
                    o,
                    generator,
                    advance=shown.advance,
                    checkpoints=self.checkpoints,
                    dtype=self.encoder.precision,
                )

    def remove_class(self, label: int, classes: Classes, index: int) -> list[str]:
        query = slice(self.encoder.dim, self.encoder.dim + self.encoder.query_dim)
        for modality in remove_statistics(self.memory, self.relevance, self.token_means, label, query):
            drop_modality(modality, [self.bank, *self.reading.banks], self.mean_contributions, self.prompts_pay)
        if self.options.relevance == "mlp":
            self.relevance.train_on_samples(self._sample_all_queries(index), self.generator(index, 1))
        self._update_mean_contributions(index)
        self.update_class_texts(classes, index)
        return describe_remains(self.bank.prompts, bool(self.penalty_share.sums.any()))

    # ---- embedding ------------------------------------------------------------------------------------------

    def _routing(self, query: Tensor) -> Tensor:
        """Contributions ``[n, M]`` that blend prompts and gate re-alignment: c(x), or one-hot without blending."""
        return self._one_hot_without_blending(self.relevance(query))

    def _one_hot_without_blending(self, c: Tensor) -> Tensor:
        """Return ``c [n, M]`` unchanged with ``options.blending``, and one-hot at the largest entry without it."""
        return c if self.options.blending else F.one_hot(c.argmax(1), c.shape[1]).to(c.dtype)

    def _gate(self, query: Tensor, modality: str | None) -> Tensor:
        """Contributions ``[n, M]``: a given modality's mean contributions for all rows, or ``_routing``.

        The mean contributions are one-hot too without blending. ``_routing`` also serves a modality that has not been
        learned.
        """
        if modality is None or modality not in self.mean_contributions:
            return self._routing(query)
        return self._one_hot_without_blending(self.mean_contributions[modality].expand(len(query), -1))

    def _features(
        self, tokens: Tokens, modality: str, query: Tensor, gate: Tensor | None = None, slot: str | None = None
    ) -> Tensor:
        """u = [z / |z| ; q / |q| ; z_1 / |z_1| ; ...], ``[n, D_u]``; :mod:`mmcl_fast.methods.shared.reading_prompts`.

        Args:
            tokens: of n samples.
            modality: of the samples.
            query: their unit queries.
            gate: ``[n, M]``; None: ``_routing``.
            slot: keeps embeddings in the cache, see ``EmbeddingCache.embed``; None: they are not kept.
        """
        weight = self._routing(query) if gate is None else gate
        parts = [F.normalize(self._embed(tokens, modality, weight, slot), dim=-1), query]
        if self.reading.modalities:
            # One-hot: these embeddings then stay the same after later tasks, so they are computed once.
            same = [self.encoder.tower(m) == self.encoder.tower(modality) for m in self.relevance.modalities]
            of_tower = weight.masked_fill(~torch.tensor(same, device=weight.device), -1.0)
            chosen = F.one_hot(of_tower.argmax(1), weight.shape[1]).to(weight.dtype)
            parts += [self._embed(tokens, modality, chosen, slot, k) for k in range(len(self.reading.banks))]
        return torch.cat(parts, dim=1)

    def _embed(
        self, tokens: Tokens, modality: str, weight: Tensor, slot: str | None = None, reading: int | None = None
    ) -> Tensor:
        """Embed samples under the blend of a bank's prompts, ``[n, D]``.

        Args:
            tokens: of n samples.
            modality: of the samples.
            weight: contributions ``[n, M]``.
            slot: as in ``_features``.
            reading: number of a bank of reading prompts. Its embeddings are unit vectors. Samples of modalities that
                have no reading prompts get 0. None: the modalities' own prompts, or the bare head.
        """
        bank = self.bank if reading is None else self.reading.banks[reading]
        label = "" if reading is None else f", reading {reading}"
        names, shares = bank.tower_shares(modality, weight, self.relevance.modalities, self.options.least_share)
        prompts = {m + label: bank.prompt_for(m, modality) for m in names}

        def embed(prompts: dict[str, Tensor], slot: str | None) -> Tensor:
            columns = shares[:, : len(prompts)]
            if reading is not None and not prompts:
                return weight.new_zeros(weight.shape[0], self.encoder.dim)
            if slot is None:
                z = embed_all(bank.head, tokens, modality, list(prompts.values()), columns)
            else:
                z = self.embedding_cache.embed(bank.head, tokens, modality, prompts, columns, slot + label)
            return z if reading is None else F.normalize(z, dim=-1)

        bare = bank.bare_rows(modality, weight, self.relevance.modalities) if names else None
        if bare is None or not (self.embedding_cache.tracing or bool(bare.any())):
            return embed(prompts, slot)
        z = embed({}, slot and f"{slot}, bare head")  # prompts did not pay for the modality that these samples resemble
        if self.embedding_cache.tracing or not bool(bare.all()):
            z = torch.where(bare.unsqueeze(1), z, embed(prompts, slot))
        return z

    def embed(self, tokens: Tokens, modality: str, *, given: bool) -> Tensor:
        """Return e ``[n, D]``, unit rows: the embeddings after re-alignment; the encoder's before the first task."""
        query = unit_query(tokens)
        if not self.relevance.modalities:
            one_batch = self.embedding_cache.tracing
            return F.normalize(embed_all(self.encoder, tokens, modality, one_batch=one_batch), dim=-1)
        gate = self._gate(query, modality if given else None)
        slot = "given" if given else "agnostic"
        return self.realigner(self._features(tokens, modality, query, gate, slot), gate)

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        return self.encoder.logit_scale * self.embed(tokens, modality, given=given) @ classes.embedding.T

    def outputs(self, tokens: Tokens, modality: str, classes: Classes) -> dict[str, Tensor]:
        """Return ``logits [B, C]``, ``embedding [B, D]`` (e), and ``contributions [B, M]`` over the modalities seen.

        The contributions are c(x), or one-hot without blending.
        """
        e = self.embed(tokens, modality, given=False)
        return {
            "logits": self.encoder.logit_scale * e @ classes.embedding.T,
            "embedding": e,
            "contributions": self._routing(unit_query(tokens)),
        }

    def embeddings(self, tokens: Tokens, modality: str) -> dict[str, Tensor]:
        """Return z before and e after re-alignment; the encoder's embeddings before the first task."""
        if not self.relevance.modalities:
            return super().embeddings(tokens, modality)
        query = unit_query(tokens)
        gate = self._gate(query, None)
        u = self._features(tokens, modality, query, gate, "agnostic")
        out = {"before re-alignment": u[:, : self.encoder.dim]}
        return out if self.realigner.down is None else {**out, "after re-alignment": self.realigner(u, gate)}

    @property
    def uses_given_modality(self) -> bool:
        """Whether a modality has been learned: from then on a given one has mean contributions of its own."""
        return bool(self.relevance.modalities)

    def contributions(self, tokens: Tokens, modality: str, *, given: bool) -> dict[str, float] | None:
        """Return modality -> mean over the samples of what ``_gate`` gives; None before the first task."""
        if not self.relevance.modalities:
            return None
        gate = self._gate(unit_query(tokens), modality if given else None)
        return dict(zip(self.relevance.modalities, gate.mean(0).tolist()))

    def contribution_matrix(self) -> tuple[list[str], list[list[float]]] | None:
        """Return the modalities, and a row of ``mean_contributions`` for each; None before the first task."""
        names, means = self.relevance.modalities, self.mean_contributions
        return (list(names), [means[m].tolist() for m in names]) if means else None

    # ---- state ----------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        relevance, relevance_values = self.relevance.state()
        memory, memory_values = self.memory.state()
        tensors = {f"relevance/{k}": v for k, v in relevance.items()}
        tensors |= {f"memory/{k}": v for k, v in memory.items()}
        tensors |= {f"prompt/{m}": p for m, p in self.bank.prompts.items()}
        tensors["penalty_share"] = self.penalty_share.sums
        tensors |= {f"row/{m}": c for m, c in self.mean_contributions.items()}
        reading, reading_widths = self.reading.state()
        tensors |= {f"reading/{k}": p for k, p in reading.items()}
        means, classes_of_means = self.token_means.state()
        tensors |= {f"tokens/{k}": v for k, v in means.items()}
        if self.realigner.down is not None and self.realigner.up is not None:
            tensors |= {"realign/down": self.realigner.down, "realign/up": self.realigner.up}
        values = {"relevance": relevance_values, "memory": memory_values, "token_means": classes_of_means}
        values |= {"token_widths": dict(self.bank.widths), "prompt_sizes": dict(self.bank.sizes)}
        values |= {"reading_widths": reading_widths}
        return tensors, values | {"prompts_pay": {m: list(tests) for m, tests in self.prompts_pay.items()}}

    def migrate_state(
        self, tensors: dict[str, Tensor], values: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return migrate_state(self.options, tensors, values)

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.relevance.load_state(strip_prefix("relevance/", tensors), values["relevance"])
        self.memory.load_state(strip_prefix("memory/", tensors), values["memory"])
        self.token_means.load_state(strip_prefix("tokens/", tensors), values["token_means"])
        self.penalty_share.load(tensors["penalty_share"])
        self.prompts_pay = {m: [dict(test) for test in tests] for m, tests in values["prompts_pay"].items()}
        order = self.relevance.modalities  # blending sums in the bank's order
        prompts, self.mean_contributions = strip_prefix("prompt/", tensors), strip_prefix("row/", tensors)
        known = {m: prompts[m] for m in order if m in prompts}
        self.bank.load(known, values["token_widths"], values["prompt_sizes"])
        self.reading.load_state(strip_prefix("reading/", tensors), values["reading_widths"], order)
        self.realigner.down, self.realigner.up = tensors.get("realign/down"), tensors.get("realign/up")
