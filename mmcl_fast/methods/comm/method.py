"""COMM: continual learning for multiple modalities (Jin and Kim, arXiv 2503.08064).

The paper's equations are not public to us; every formula here is our choice and has a switch for its ablation.
Steps, for a task t of modality m: relevance, prompts, intra-modal aggregation, feature memory, re-alignment.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast import distributed, ops
from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.comm.memory import FeatureMemory
from mmcl_fast.methods.comm.realignment import Realigner, class_codes
from mmcl_fast.methods.comm.relevance import Relevance
from mmcl_fast.methods.shared.embedding import alike, embed_all, mix, unit_query
from mmcl_fast.methods.shared.options import (
    BatchSize,
    Epochs,
    LearningRate,
    MethodOptions,
    Positive,
    PromptLength,
    RelevancePenalty,
    RidgePenalty,
    ScaleShiftRate,
    Share,
    TextScaleShift,
    TokenScaleShift,
    Weight,
)
from mmcl_fast.methods.shared.prompts import batches, subset, train_groups
from mmcl_fast.methods.shared.token_scale_shift import RowBank, drop_channels
from mmcl_fast.option_fields import FormerName, Symbol


class CommOptions(MethodOptions):
    """Switches and sizes of COMM's steps. The defaults are those of ``mmcl-fast train demo``."""

    prompts: bool = Field(True, description="Learn prompts; false: embeddings come from the bare head")
    prompt_length: PromptLength = 8
    token_scale_shift: TokenScaleShift = True
    text_scale_shift: TextScaleShift = False
    channel_dropout: float = Field(
        0.2, ge=0, le=0.9, description="Share of the token channels that a sample loses in each step of prompt learning"
    )
    class_targets: Annotated[Literal["texts", "learned"], FormerName("codes"), Symbol("V_t")] = Field(
        "learned",
        description="What prompts are learned towards: texts: the frozen class texts; learned: targets that start from "
        "the texts' dual basis and are trained with the prompt",
    )
    class_targets_lr: Annotated[LearningRate, FormerName("codes_lr")] = Field(
        0.003, description="Largest learning rate of learned class targets"
    )
    epochs: Epochs = 20
    batch_size: BatchSize = 32
    lr: LearningRate = Field(0.01, description="Largest learning rate of the vision tower's prefixes")
    text_lr: LearningRate = Field(0.3, description="Largest learning rate of the text tower's prefixes")
    scale_shift_lr: ScaleShiftRate = 0.02
    self_regularisation: Annotated[Weight, Symbol(r"\beta")] = Field(
        4.0, description="Weight of keeping the embeddings that the previous prompt gave; 0 switches it off"
    )
    aggregation: bool = Field(
        True, description="Average a modality's new prompt with its previous one; false: the new prompt replaces it"
    )
    lambda_max: Annotated[Share, Symbol(r"\lambda_{\max}")] = Field(
        1.0, description="Largest weight of the new prompt in that average"
    )
    sigma: Annotated[Positive, Symbol(r"\sigma")] = Field(
        0.5, description="Shift of the embeddings at which the new prompt's weight is halved"
    )
    blending: bool = Field(
        True,
        description="Blend prompts and re-alignments by contribution; false: take the most relevant modality's alone",
    )
    relevance: Literal["analytic", "mlp"] = Field(
        "analytic",
        description="The relevance function: analytic: a ridge classifier; mlp: one hidden layer of 128, trained on "
        "the task's queries and on queries sampled from the feature memory, modalities weighted alike",
    )
    tau: Annotated[Positive, Symbol(r"\tau")] = Field(
        0.2, description="Temperature of the contributions; a lower one is nearer to one modality alone"
    )
    least_share: Annotated[Share, Symbol(r"\pi_{\min}")] = Field(
        0.02, description="Prompts with a smaller share of a sample's blend are left out"
    )
    relevance_penalty: RelevancePenalty = 0.01
    realignment: Literal["off", "closed", "trained"] = Field(
        "trained",
        description="Align the embeddings with all class texts after each task: off: never; closed: by the closed form "
        "alone; trained: by training that begins with `start`",
    )
    start: Literal["ridge", "zero"] = Field(
        "ridge",
        description="What re-alignment begins with: ridge: the closed form; zero: A random and B zero, which makes "
        "closed do nothing",
    )
    rank: Annotated[int, Symbol("r")] = Field(32, ge=1, description="Rank of each modality's re-alignment")
    reads_query: bool = Field(
        True, description="Re-alignment reads the embedding and the trunk's query; false: the embedding alone"
    )
    dual_targets: bool = Field(
        True, description="The closed form regresses onto the class texts' dual basis; false: onto the class texts"
    )
    penalty: Annotated[RidgePenalty, Field(description="Ridge penalty of the closed form")] = 0.02
    steps: int = Field(200, ge=0, description="Training steps of re-alignment after each task")
    sampled_features: Annotated[int, FormerName("draws")] = Field(
        512, ge=1, description="Features of a re-alignment step, taken from a pool of four times as many"
    )
    realignment_lr: LearningRate = Field(0.001, description="Largest learning rate of re-alignment")
    realignment_decay: Annotated[Weight, Symbol(r"\gamma")] = Field(
        0.0, description="Weight of keeping re-alignment near its starting point"
    )
    realignment_scale: Annotated[Positive, Symbol("s")] = Field(
        40.0, description="Factor from cosines to logits in re-alignment's loss"
    )
    weighted: bool = Field(
        True, description="Weight re-alignment's loss by each sample's contribution of its own modality"
    )
    compiled: bool = Field(
        False, description="Run re-alignment's steps through torch.compile: another speed, the same equation"
    )
    drift: bool = Field(
        True, description="Move the old classes' means as the modality's prompt moves; false: they stay where they were"
    )
    drift_width: Annotated[Positive, Symbol("h")] = Field(
        0.3, description="Width of the kernel that weighs the drift of near samples"
    )
    class_rank: Annotated[int, Symbol("r_c")] = Field(16, ge=1, description="Rank of the covariance kept for a class")
    modality_rank: Annotated[int, Symbol("r_m")] = Field(
        128, ge=1, description="Rank of the pooled covariance kept for a modality"
    )
    shrink: Annotated[Share, Symbol("a")] = Field(
        0.5, description="Share of the modality's pooled covariance in the covariance of a class"
    )


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
        self.bank = RowBank(encoder, o.prompt_length, o.token_scale_shift, o.text_scale_shift)
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
        codes = F.normalize(class_codes(texts, dual=True), dim=1) if o.class_targets == "learned" else texts
        target = data.targets
        z_before = None if before is None else before[:, : head.dim]
        plan = batches(len(data.labels), o.batch_size, o.epochs, generator)
        lr = o.text_lr if self.encoder.tower(modality) == "text" else o.lr
        groups = [([prefix], lr), ([rows_of] if len(rows_of) else [], o.scale_shift_lr)]
        groups += [([codes] if o.class_targets == "learned" else [], o.class_targets_lr)]

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
                    per_step=o.sampled_features,
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
