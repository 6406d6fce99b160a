"""The upper bound: training on all tasks' data at once.

The whole head and one prompt per modality are trained together with a linear classifier on z:

    loss = CE(scale * z / |z| W + b, y) over all classes

Then a ridge classifier on [z / |z| ; q / |q|] is fitted in closed form. It has the features of ``ridge`` and the
trained z besides them. Generalised cross-validation chooses its penalty (``penalty = "auto"``).

Prompts are trained as COMM's (``methods/shared/prompt_training.py``): prefixes with a rate for each tower, scales and
shifts of tokens, dropped channels, a least number of steps. By default no channel is dropped, because the samples of
all tasks are there at once. The method is a bound only for what its own settings can learn, so its rates have to be
chosen for a stream too.

It keeps every task's tokens, so it is no continual learner. It is trained after the last task, or when scores are first
asked for. A state saved before that can't be continued; a stopped run reads the tasks' tokens again. A sample's prompt
is the one of its given modality, or else of the modality that the relevance function finds most likely.

Options: :class:`JointOptions`.
"""

from __future__ import annotations

import copy
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast import distributed
from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.errors import RunError
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.comm.relevance import Relevance
from mmcl_fast.methods.shared.embedding import embed_all, unit_query
from mmcl_fast.methods.shared.options import (
    BatchSize,
    ClassifierRate,
    Epochs,
    LearningRate,
    MethodOptions,
    Positive,
    PromptLength,
    RelevancePenalty,
    ScaleShiftRank,
    ScaleShiftRate,
    TextScaleShift,
    TokenScaleShift,
)
from mmcl_fast.methods.shared.prompt_and_classifier import strip_prefix
from mmcl_fast.methods.shared.prompt_training import (
    COMM_LEAST_STEPS,
    ChannelDropout,
    LeastSteps,
    PrefixRate,
    PromptTraining,
    drop_random_channels,
    fresh_prompt,
    step_batches,
    step_count,
)
from mmcl_fast.methods.shared.prompts import concat_tokens, subset, train_groups
from mmcl_fast.methods.shared.ridge_regression import Ridge
from mmcl_fast.methods.shared.token_scale_shift import TokenScaleShiftBank, TokenScaleShiftHead
from mmcl_fast.option_fields import Symbol, Tunable


class JointOptions(MethodOptions):
    prompt_length: PromptLength = 8
    token_scale_shift: TokenScaleShift = True
    text_scale_shift: TextScaleShift = True
    scale_shift_rank: ScaleShiftRank = 4
    channel_dropout: ChannelDropout = 0.0
    epochs: Epochs = 20
    least_steps: LeastSteps = COMM_LEAST_STEPS
    batch_size: BatchSize = 32
    lr: Annotated[PrefixRate, Tunable(1e-3, 1.0)] = 0.015
    text_lr: Annotated[LearningRate, Tunable(1e-3, 3.0)] = Field(
        0.015, description="Largest learning rate of the text tower's prefixes, in units of its keys and values"
    )
    scale_shift_lr: Annotated[ScaleShiftRate, Tunable(0.005, 0.5, needs=("token_scale_shift", (True,)))] = 0.06
    head: bool = Field(
        True, description="Train the encoder's head too; false: it stays frozen, as for methods that learn a stream"
    )
    head_lr: Annotated[LearningRate, Tunable(1e-5, 0.01)] = Field(
        0.0003, description="Largest learning rate of the encoder's head"
    )
    classifier_lr: ClassifierRate = 0.003
    penalty: Annotated[Positive | Literal["auto"], Symbol(r"\lambda")] = Field(
        "auto",
        description="Ridge penalty, relative to the mean of the Gram matrix's diagonal. auto: generalised "
        "cross-validation chooses it",
    )
    relevance_penalty: RelevancePenalty = 0.01
    scale: Positive = Field(20.0, description="Factor from scores to the logits that head and prompts are trained with")


class Joint(Method):
    """Joint training on all tasks.

    Attributes:
        tasks: the data of all tasks so far.
        weight: the ridge classifier ``[D + Dq + 1, C]``; None until it is fitted.
    """

    name = "joint"
    supports_distributed = True
    Options = JointOptions
    needs_all_tasks = True
    class_state: ClassVar[tuple[str, ...]] = ("weight",)

    def __init__(self, encoder: Encoder, options: JointOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.tasks: list[TaskData] = []
        o = options
        self.bank = TokenScaleShiftBank(encoder, o.prompt_length, o.token_scale_shift, o.text_scale_shift)
        self.relevance = Relevance(encoder.query_dim, "analytic", 1.0, options.relevance_penalty)
        self.weight: Tensor | None = None

    def learn(self, data: TaskData, classes: Classes) -> None:
        self.bank.reserve(data.tokens, data.modality)
        self.relevance.learn(unit_query(data.tokens), data.modality, {}, self.generator(data.index, 1))
        self.weight = None
        self.tasks.append(data)

    def finish(self, classes: Classes) -> None:
        self._classifier(classes)

    def _classifier(self, classes: Classes) -> Tensor:
        """The ridge classifier; trains everything where that has not been done yet."""
        if self.weight is None:
            self.weight = self.fit(classes)
        return self.weight

    def fit(self, classes: Classes) -> Tensor:
        """Train head and prompts from scratch on all tasks so far; return the classifier ``[D + Dq + 1, C]``."""
        o, generator = self.options, self.generator(len(self.tasks), 3)
        pools = self._data_by_modality()
        device = self.tasks[0].labels.device
        trained = self._copy_head()  # before the units of its keys and values are measured
        prompts = {
            m: PromptTraining(trained, fresh_prompt(self.bank, tokens, m, generator), tokens, m, o, generator)
            for m, (tokens, _) in pools.items()
        }
        head = self._head_parameters() if o.head else []
        precision = torch.autocast(device.type, torch.bfloat16, enabled=self.encoder.precision == torch.bfloat16)
        weight = torch.zeros(self.encoder.dim, len(classes), device=device)
        bias = torch.zeros(len(classes), device=device)
        groups: list[tuple[list[Tensor], float]] = [
            *(group for prompt in prompts.values() for group in prompt.groups),
            ([weight, bias], o.classifier_lr),
            (head, o.head_lr),
        ]
        plan = [
            (modality, rows)
            for modality, (_, labels) in pools.items()
            for rows in step_batches(len(labels), o.batch_size, step_count(len(labels), o), generator)
        ]
        order = torch.randperm(len(plan), generator=generator).tolist()  # mixes the modalities' batches

        def loss(step: int) -> Tensor:
            modality, rows = plan[order[step]]
            pool, labels = pools[modality]
            count = len(rows)
            rows, share = distributed.shard_batch(rows)
            tokens = drop_random_channels(subset(pool, rows), count, o.channel_dropout, generator)
            with precision:  # the head's copy is float32, its matrix products need not be
                z = trained.head(tokens, prompts[modality](), modality).float()
            scores = o.scale * F.normalize(z, dim=-1) @ weight + bias
            return share * F.cross_entropy(scores, labels[rows.to(labels.device)])

        with self.phase("prompts", len(plan)) as shown:
            train_groups(groups, len(plan), loss, None, shown.advance, generator, self.checkpoints)
        self.bank.prompts = {modality: prompt().detach() for modality, prompt in prompts.items()}
        ridge = Ridge(self.encoder.dim + self.encoder.query_dim, o.penalty)
        for data in self.tasks:
            z = embed_all(self.bank.head, data.tokens, data.modality, [self.bank.prompts[data.modality]])
            ridge.add(torch.cat([F.normalize(z, dim=-1), unit_query(data.tokens)], dim=1), data.labels, len(classes))
        return ridge.weight().to(device)

    def _data_by_modality(self) -> dict[str, tuple[Tokens, Tensor]]:
        """Modality -> tokens and labels of all its tasks: batches of one task alone would teach which task it is."""
        tasks_of: dict[str, list[TaskData]] = {}
        for data in self.tasks:
            tasks_of.setdefault(data.modality, []).append(data)
        return {
            modality: (concat_tokens(*(data.tokens for data in tasks)), torch.cat([data.labels for data in tasks]))
            for modality, tasks in tasks_of.items()
        }

    def _copy_head(self) -> TokenScaleShiftHead:
        """The head to train: of a copy of the encoder in float32, so that the encoder itself stays frozen."""
        if self.options.head and self.encoder.trainable_modules():
            encoder = copy.deepcopy(self.encoder)
            encoder.set_precision(torch.float32)
            o = self.options
            self.bank.head = TokenScaleShiftHead(encoder, o.prompt_length, o.token_scale_shift, o.text_scale_shift)
        return self.bank.head

    def _head_parameters(self) -> list[Tensor]:
        return [p for module in self.bank.head.encoder.trainable_modules() for p in module.parameters()]

    @property
    def uses_given_modality(self) -> bool:
        return bool(self.relevance.modalities)

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        if not self.relevance.modalities:
            return self.embedding_cache.cosine_scores(self.encoder, tokens, modality, classes.embedding)
        classifier = self._classifier(classes)
        query, names = unit_query(tokens), self.relevance.modalities
        if given and modality in names:
            weight = F.one_hot(torch.tensor(names.index(modality)), len(names)).float().to(query.device)
        else:
            weight = F.one_hot(self.relevance(query).argmax(1), len(names)).float()
        blended, shares = self.bank.tower_shares(modality, weight, names)
        prompts = [self.bank.prompt_for(m, modality) for m in blended]
        one_batch = self.embedding_cache.tracing
        z = embed_all(self.bank.head, tokens, modality, prompts, shares, one_batch=one_batch)
        source = F.pad(torch.cat([F.normalize(z, dim=-1), query], dim=1), (0, 1), value=1.0)
        out = source @ classifier
        # Classes that were not trained can't be predicted.
        return F.pad(out, (0, len(classes) - out.shape[1]), value=float("-inf"))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        relevance, values = self.relevance.state()
        tensors = {f"relevance/{k}": v for k, v in relevance.items()}
        if self.weight is not None:
            tensors |= {f"prompt/{m}": p for m, p in self.bank.prompts.items()} | {"weight": self.weight}
            if self.options.head:
                tensors |= {f"head/{n}": p.detach() for n, p in enumerate(self._head_parameters())}
        return tensors, {"relevance": values}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        if values["relevance"]["modalities"] and "weight" not in tensors:
            raise RunError(
                "method joint keeps all tasks' data in memory and was stopped before it was fitted; start the run anew"
            )
        self.relevance.load_state(strip_prefix("relevance/", tensors), values["relevance"])
        self.bank.load(strip_prefix("prompt/", tensors))
        self.weight = tensors.get("weight")
        if self.options.head and self.weight is not None:
            self._copy_head()
            with torch.no_grad():
                for n, p in enumerate(self._head_parameters()):
                    p.copy_(tensors[f"head/{n}"])
