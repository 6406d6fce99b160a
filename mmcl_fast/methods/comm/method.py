"""COMM: continual learning for multiple modalities (Jin and Kim, arXiv 2503.08064).

The paper's equations are not public to us; every formula here is our choice and has a switch for its ablation.
Steps, for a task t of modality m: relevance, prompts, intra-modal aggregation, feature memory, re-alignment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast import distributed, ops
from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.comm.memory import FeatureMemory
from mmcl_fast.methods.comm.realignment import Realigner, class_codes
from mmcl_fast.methods.comm.relevance import Relevance
from mmcl_fast.methods.shared.embedding import alike, embed_all, mix, unit_query
from mmcl_fast.methods.shared.prompts import batches, subset, train_groups
from mmcl_fast.methods.shared.token_scale_shift import RowBank, drop_channels


@dataclass(frozen=True)
class CommOptions:
    """Every field is a switch or a size of one step; the defaults are those of ``mmcl-fast train demo``."""

    prompts: bool = True  # False: no prompt at all, z of the bare head
    prompt_length: int = 8  # L
    token_rows: bool = True  # prompts also have rows that scale and shift the trunk's tokens
    text_rows: bool = False  # those of texts too
    channel_dropout: float = 0.2  # share of the tokens' channels that a sample goes without while a prompt is learned
    codes: Literal["texts", "learned"] = "learned"  # what prompts are learned towards
    codes_lr: float = 0.003
    epochs: int = 20
    batch_size: int = 32
    lr: float = 0.01  # of the vision tower's prefixes
    text_lr: float = 0.3  # of the text tower's
    rows_lr: float = 0.02
    self_regularisation: float = 4.0  # beta
    aggregation: bool = True  # False: P_m <- P_m_new
    lambda_max: float = 1.0
    sigma: float = 0.5
    blending: bool = True  # False: prompt and gate of the most relevant modality alone
    relevance: Literal["analytic", "mlp"] = "analytic"
    tau: float = 0.2  # temperature of c(x)
    least_share: float = 0.02  # smaller shares of prompts are left out
    relevance_penalty: float = 0.01
    realignment: Literal["off", "closed", "trained"] = "trained"
    start: Literal["ridge", "zero"] = "ridge"
    rank: int = 32  # r
    reads_query: bool = True  # source u = [z ; q]; False: z only
    dual_targets: bool = True  # ridge onto the class texts' dual basis; False: onto the texts
    penalty: float = 0.02
    steps: int = 200
    draws: int = 512  # features per step
    realignment_lr: float = 0.001
    realignment_decay: float = 0.0
    realignment_scale: float = 40.0  # s of the re-alignment loss
    weighted: bool = True  # weight by contribution
    compiled: bool = False  # re-alignment's step through torch.compile: `bench train` says what it gains
    drift: bool = True  # correct old means when P_m moves
    drift_width: float = 0.3
    class_rank: int = 16
    modality_rank: int = 128
    shrink: float = 0.5


class Comm(Method):
    """See the module's docstring and :class:`CommOptions`."""

    name = "comm"
    reads_texts = True
    shares = True
    Options = CommOptions

    def __init__(self, encoder: Encoder, options: CommOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        o = options
        self.relevance = Relevance(encoder.query_dim, o.relevance, o.tau, o.relevance_penalty)
        self.bank = RowBank(encoder, o.prompt_length, o.token_rows, o.text_rows)
        self.memory = FeatureMemory(o.class_rank, o.modality_rank, o.shrink)
        self.realigner = Realigner(encoder.dim, rank=o.rank, reads_query=o.reads_query)
        self.rows: dict[str, Tensor] = {}  # modality -> its mean contributions over `relevance.modalities`

    # ---- learning -------------------------------------------------------------------------------------------

    def learn(self, data: TaskData, classes: Classes) -> None:
        modality = data.modality
        first = modality not in self.relevance.modalities
        if self.options.prompts:
            self.bank.meet(data.tokens, modality)
        with self.phase("relevance"):
            query = unit_query(data.tokens)
            blend_of_others = self._blend_of_others(query, modality) if first else None
            others = {} if self.options.relevance == "analytic" else self._drawn_queries(data.index)
            self.relevance.learn(query, modality, others, self.generator(data.index, 1), self.checkpoints)
        with self.phase("features"):
            before = None if first else self._features(data.tokens, modality, query)
        if self.options.prompts:
            self._learn_prompt(data, classes, query, blend_of_others, before)
        with self.phase("features"):
            after = self._features(data.tokens, modality, query)
        with self.phase("statistics"):
            self._remember(data, before, after)
            self._update_rows(data.index)
        if self.options.realignment != "off":
            self._realign(classes, data.index)

    def _blend_of_others(self, query: Tensor, modality: str) -> Tensor | None:
        """Starting point of a new modality's prompt: the blend of its tower's that the others' contributions give."""
        if not (self.options.blending and self.bank.prompts):
            return None
        return self.bank.blend(
            modality, self.relevance(query).mean(0), self.relevance.modalities, self.options.least_share
        )

    def _drawn_queries(self, index: int) -> dict[str, Tensor]:
        generator = self.generator(index, 2)
        return {m: self._draw_queries(m, 64, 2048, generator) for m in self.relevance.modalities}

    def _draw_queries(self, modality: str, each: int, most: int, generator: torch.Generator) -> Tensor:
        """Unit queries of a modality's classes from the feature memory: ``each`` of a class, but so many less, and of
        so many fewer classes, that there are ``most`` at most."""
        count = max(1, min(each, most // len(self.memory.labels(modality))))
        return F.normalize(self.memory.draw(modality, count, generator, most)[:, self.encoder.dim :], dim=1)

    def _update_rows(self, index: int) -> None:
        """Mean contributions of every modality's samples, from drawn queries: no old sample is needed."""
        generator = self.generator(index, 5)
        for m in self.relevance.modalities:
            self.rows[m] = self.relevance(self._draw_queries(m, 32, 512, generator)).mean(0)

    def _learn_prompt(
        self, data: TaskData, classes: Classes, query: Tensor, start: Tensor | None, before: Tensor | None
    ) -> None:
        o, modality, head = self.options, data.modality, self.bank.head
        generator = self.generator(data.index, 3)
        old = self.bank.prompts.get(modality)
        fresh = old if old is not None else start if start is not None else self.bank.fresh(modality, generator)
        prefix, rows_of = parts = head.parts(fresh, modality)
        names, shares = self.bank.shares(
            modality, self._routing(query), self.relevance.modalities, o.least_share, modality
        )
        shares = alike(shares)
        texts = classes.embedding[data.classes]
        codes = F.normalize(class_codes(texts, dual=True), dim=1) if o.codes == "learned" else texts
        target = data.targets
        z_before = None if before is None else before[:, : head.dim]
        plan = batches(len(data.labels), o.batch_size, o.epochs, generator)
        lr = o.text_lr if self.encoder.tower(modality) == "text" else o.lr
        groups = [([prefix], lr), ([rows_of] if len(rows_of) else [], o.rows_lr)]
        groups += [([codes] if o.codes == "learned" else [], o.codes_lr)]

        def with_own(prompt: Tensor) -> list[Tensor]:
            return [prompt if m == modality else self.bank.part(m, modality) for m in names]

        def loss(step: int) -> Tensor:
            rows, share = distributed.shard_batch(plan[step].to(query.device))
            mixed = mix(with_own(torch.cat(parts)), shares if shares.dim() == 1 else shares[rows])
            tokens = subset(data.tokens, rows)
            if o.channel_dropout:
                kept = torch.rand(len(plan[step]), tokens.tokens.shape[2], generator=generator) >= o.channel_dropout
                tokens = drop_channels(tokens, distributed.shard_batch(kept)[0].to(query.device), o.channel_dropout)
            z = head.head(tokens, mixed, modality)
            value = ops.alignment_loss(z, codes, target[rows], logit_scale=self.encoder.logit_scale)
            if z_before is not None and o.self_regularisation:
                value = value + o.self_regularisation * (1 - F.cosine_similarity(z, z_before[rows])).mean()
            return value * share

        with self.phase("prompts", len(plan)) as shown:
            train_groups(groups, len(plan), loss, None, shown.advance, generator, self.checkpoints)
        prompt = torch.cat(parts)
        if old is not None and z_before is not None and o.aggregation:
            with self.phase("features"):
                shift = self._prompt_shift(data, shares, with_own(prompt), z_before)
            prompt = torch.lerp(old, prompt, o.lambda_max / (1 + shift / o.sigma))
        self.bank.prompts[modality] = prompt

    def _prompt_shift(self, data: TaskData, shares: Tensor, prompts: list[Tensor], old: Tensor) -> float:
        """Mean of 1 - cos between embeddings under the old and the new prompt, on the task's data."""
        new = embed_all(self.bank.head, data.tokens, data.modality, prompts, shares)
        return float((1 - F.cosine_similarity(old, new)).mean())

    def _remember(self, data: TaskData, before: Tensor | None, after: Tensor) -> None:
        if before is not None and self.options.drift:
            dim = self.encoder.dim
            self.memory.shift(
                data.modality,
                set(data.classes),
                after[:, :dim] - before[:, :dim],
                before,
                self.options.drift_width,
                dim,
            )
        self.memory.add(data.modality, data.classes, after, data.labels)

    def _realign(self, classes: Classes, index: int) -> None:
        o, names = self.options, self.relevance.modalities
        generator, texts = self.generator(index, 4), classes.embedding
        with self.phase("re-alignment", o.steps if o.realignment == "trained" else None) as shown:
            if o.start == "ridge":
                self.realigner.solve(self.memory, texts, names, o.penalty, o.dual_targets)
            else:
                self.realigner.start_at_zero(self.encoder.dim + self.encoder.query_dim, names, generator, texts.device)
            if o.realignment == "trained":
                self.realigner.train(
                    self.memory,
                    texts,
                    names,
                    lambda u: self._routing(F.normalize(u[:, self.encoder.dim :], dim=1)),
                    steps=o.steps,
                    per_step=o.draws,
                    lr=o.realignment_lr,
                    decay=o.realignment_decay,
                    logit_scale=o.realignment_scale,
                    weighted=o.weighted,
                    generator=generator,
                    advance=shown.advance,
                    checkpoints=self.checkpoints,
                    dtype=self.encoder.precision,
                    compiled=o.compiled,
                )

    # ---- embedding ------------------------------------------------------------------------------------------

    def _routing(self, query: Tensor) -> Tensor:
        """Contributions ``[n, M]`` that blend prompts and gate the re-alignment: c(x), one-hot without blending."""
        return self._sharpen(self.relevance(query))

    def _sharpen(self, c: Tensor) -> Tensor:
        return c if self.options.blending else F.one_hot(c.argmax(1), c.shape[1]).to(c.dtype)

    def _gate(self, query: Tensor, modality: str | None) -> Tensor:
        """c(x), or for a given modality its mean contribution row."""
        if modality is None or modality not in self.rows:
            return self._routing(query)
        return self._sharpen(self.rows[modality].expand(len(query), -1))

    def _features(
        self, tokens: Tokens, modality: str, query: Tensor, gate: Tensor | None = None, place: str | None = None
    ) -> Tensor:
        """u = [z / |z| ; q / |q|], ``[n, D_u]``. place: see ``Reuse.embed``; None: z is not kept."""
        weight = self._routing(query) if gate is None else gate
        names, shares = self.bank.shares(modality, weight, self.relevance.modalities, self.options.least_share)
        prompts = {m: self.bank.part(m, modality) for m in names}
        if place is None:
            z = embed_all(self.bank.head, tokens, modality, list(prompts.values()), shares)
        else:
            z = self.reuse.embed(self.bank.head, tokens, modality, prompts, shares, place)
        return torch.cat([F.normalize(z, dim=-1), query], dim=1)

    def embed(self, tokens: Tokens, modality: str, *, given: bool) -> Tensor:
        """e ``[n, D]``, unit rows."""
        query = unit_query(tokens)
        if not self.relevance.modalities:
            return F.normalize(embed_all(self.encoder, tokens, modality), dim=-1)
        gate = self._gate(query, modality if given else None)
        place = "given" if given else "agnostic"
        return self.realigner(self._features(tokens, modality, query, gate, place), gate)

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        return self.encoder.logit_scale * self.embed(tokens, modality, given=given) @ classes.embedding.T

    def outputs(self, tokens: Tokens, modality: str, classes: Classes) -> dict[str, Tensor]:
        """Also ``embedding [B, D]``, e, and ``contributions [B, M]``, c(x) over the modalities seen."""
        e = self.embed(tokens, modality, given=False)
        return {
            "logits": self.encoder.logit_scale * e @ classes.embedding.T,
            "embedding": e,
            "contributions": self._routing(unit_query(tokens)),
        }

    def embeddings(self, tokens: Tokens, modality: str) -> dict[str, Tensor]:
        if not self.relevance.modalities:
            return super().embeddings(tokens, modality)
        query = unit_query(tokens)
        gate = self._gate(query, None)
        u = self._features(tokens, modality, query, gate, "agnostic")
        out = {"before re-alignment": u[:, : self.encoder.dim]}
        return out if self.realigner.down is None else {**out, "after re-alignment": self.realigner(u, gate)}

    @property
    def routes(self) -> bool:
        return bool(self.relevance.modalities)

    def contributions(self, tokens: Tokens, modality: str, *, given: bool) -> dict[str, float] | None:
        if not self.relevance.modalities:
            return None
        gate = self._gate(unit_query(tokens), modality if given else None)
        return dict(zip(self.relevance.modalities, gate.mean(0).tolist()))

    def contribution_matrix(self) -> tuple[list[str], list[list[float]]] | None:
        names = self.relevance.modalities
        return (list(names), [self.rows[m].tolist() for m in names]) if self.rows else None

    # ---- state ----------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        relevance, relevance_values = self.relevance.state()
        memory, memory_values = self.memory.state()
        tensors = {f"relevance/{k}": v for k, v in relevance.items()}
        tensors |= {f"memory/{k}": v for k, v in memory.items()}
        tensors |= {f"prompt/{m}": p for m, p in self.bank.prompts.items()}
        tensors |= {f"row/{m}": r for m, r in self.rows.items()}
        if self.realigner.down is not None and self.realigner.up is not None:
            tensors |= {"realign/down": self.realigner.down, "realign/up": self.realigner.up}
        return tensors, {"relevance": relevance_values, "memory": memory_values}

    def current(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        if not isinstance(values["memory"]["classes"], list):
            return tensors, values
        memory = FeatureMemory(self.options.class_rank, self.options.modality_rank, self.options.shrink)
        memory.load_state({k.removeprefix("memory/"): v for k, v in tensors.items()}, values["memory"])
        own, memory_values = memory.state()
        tensors = {k: v for k, v in tensors.items() if not k.startswith("memory/")}
        return tensors | {f"memory/{k}": v for k, v in own.items()}, values | {"memory": memory_values}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        def under(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.relevance.load_state(under("relevance/"), values["relevance"])
        self.memory.load_state(under("memory/"), values["memory"])
        order = self.relevance.modalities  # blending sums in the bank's order
        prompts, self.rows = under("prompt/"), under("row/")
        self.bank.load({m: prompts[m] for m in order if m in prompts})
        self.realigner.down, self.realigner.up = tensors.get("realign/down"), tensors.get("realign/up")
