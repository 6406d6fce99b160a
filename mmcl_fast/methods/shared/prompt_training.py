"""The training of prompts with COMM's aids, for every method that trains some.

- A prefix is trained in units of the blocks' own keys and values, so a rate means the same on every encoder. The text
  tower can have a rate of its own.
- Scales and shifts of tokens change along few common directions (``token_scale_shift.PromptInTraining``).
- A task takes a least number of steps, whatever ``epochs`` says.
- A sample loses some channels of its tokens in each step (``token_scale_shift.drop_channels``).

Other methods' papers have none of these. The first only says what a rate means. In methods that learn a prefix alone by
default, dropped channels and a least number of steps come with ``token_scale_shift``, which is COMM's too.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from mmcl_fast import distributed
from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods.base import Method, TaskData
from mmcl_fast.methods.shared.classifier import GrowingClassifier
from mmcl_fast.methods.shared.embedding import unit_query
from mmcl_fast.methods.shared.options import (
    BatchSize,
    Epochs,
    LearningRate,
    MethodOptions,
    PromptLength,
    ScaleShiftRank,
    ScaleShiftRate,
    TextScaleShift,
    TokenScaleShift,
)
from mmcl_fast.methods.shared.prompts import batches, prefix_units, subset, train_groups
from mmcl_fast.methods.shared.token_scale_shift import (
    PromptInTraining,
    TokenScaleShiftBank,
    TokenScaleShiftHead,
    drop_channels,
)
from mmcl_fast.option_fields import Tunable

UNIT_SAMPLES = 32  # samples on which the units of a prefix are measured
COMM_CHANNEL_DROPOUT, COMM_LEAST_STEPS = 0.2, 40  # COMM's defaults

DroppedShare = Annotated[float, Field(ge=0, le=0.9)]
StepCount = Annotated[int, Field(ge=0)]
PrefixRate = Annotated[
    LearningRate, Field(description="Largest learning rate of prefixes, in units of the blocks' own keys and values")
]
TextRate = Annotated[
    Literal["auto"] | LearningRate,
    Field(description="Largest learning rate of the text tower's prefixes. auto: the option lr"),
]
ChannelDropout = Annotated[
    DroppedShare,
    Field(description="Share of the token channels that a sample loses in a training step, at all positions alike"),
]
LeastSteps = Annotated[StepCount, Field(description="Least training steps of a task's prompt, whatever epochs says")]
AutoChannelDropout = Annotated[
    Literal["auto"] | DroppedShare,
    Field(
        description="Share of the token channels that a sample loses in a training step, at all positions alike. auto: "
        "0.2 with token_scale_shift, as in COMM; else 0"
    ),
]
AutoLeastSteps = Annotated[
    Literal["auto"] | StepCount,
    Field(
        description="Least training steps of a task's prompt, whatever epochs says. auto: 40 with token_scale_shift, "
        "as in COMM; else 0"
    ),
]


class PromptOptions(MethodOptions):
    """Options of methods of other papers that can train COMM's kind of prompt. Off, they train the paper's prefix."""

    prompt_length: PromptLength = 8
    token_scale_shift: TokenScaleShift = False
    text_scale_shift: TextScaleShift = False
    scale_shift_rank: ScaleShiftRank = 4
    channel_dropout: AutoChannelDropout = "auto"
    epochs: Epochs = 20
    least_steps: AutoLeastSteps = "auto"
    batch_size: BatchSize = 32
    lr: Annotated[PrefixRate, Tunable(0.001, 3.0)] = 0.15
    text_lr: TextRate = "auto"
    scale_shift_lr: Annotated[ScaleShiftRate, Tunable(0.005, 0.5, needs=("token_scale_shift", (True,)))] = 0.06


def channel_dropout(options: Any) -> float:
    """Return the share of channels that options drop; their "auto" follows ``token_scale_shift``."""
    if options.channel_dropout == "auto":
        return COMM_CHANNEL_DROPOUT if options.token_scale_shift else 0.0
    return options.channel_dropout


def step_count(count: int, options: Any) -> int:
    """Return the training steps for ``count`` samples: ``epochs`` passes, and at least ``least_steps``.

    A last, shorter batch of a pass counts as a step. Without ``epochs`` there is none.
    """
    least = options.least_steps
    if least == "auto":
        least = COMM_LEAST_STEPS if options.token_scale_shift else 0
    return max(options.epochs * math.ceil(count / options.batch_size), least if options.epochs else 0)


def step_batches(count: int, size: int, steps: int, generator: torch.Generator) -> list[Tensor]:
    """Return the row numbers of every step, as ``prompts.batches``; the last pass ends with the last step."""
    epochs = math.ceil(steps / math.ceil(count / size)) if steps else 0
    return batches(count, size, epochs, generator)[:steps]


def drop_random_channels(tokens: Tokens, count: int, share: float, generator: torch.Generator) -> Tokens:
    """Drop channels of the samples of a batch; with ``share = 0`` return them as they are, and draw no number.

    Args:
        tokens: this process's samples of the batch.
        count: samples of the batch, of all processes together. Numbers are drawn for all of them: then any number of
            processes drops the same channels.
        share: the share of channels that a sample loses on average.
        generator: the source of random numbers.
    """
    if not share:
        return tokens
    kept = torch.rand(count, tokens.tokens.shape[2], generator=generator) >= share
    return drop_channels(tokens, distributed.shard_batch(kept)[0].to(tokens.device), share)


def fresh_prompt(bank: TokenScaleShiftBank, tokens: Tokens, modality: str, generator: torch.Generator) -> Tensor:
    """Return a new prompt ``[P]`` for samples of a modality, which the bank has room for (``reserve``).

    The prefix is small random numbers in units of the blocks' keys and values. Scales and shifts change nothing.

    Args:
        bank: makes the prompt; its prompts do not change.
        tokens: of some samples.
        modality: of the samples.
        generator: the source of random numbers.
    """
    prefix, table = bank.head.split(bank.fresh(modality, generator), modality)
    units = prefix_units(bank.encoder, tokens[:UNIT_SAMPLES], modality)[:, :, None, None]
    return torch.cat([prefix * units.expand(bank.head.prefix(modality)).flatten(), table])


class PromptTraining:
    """A prompt ``[P]`` while it is trained; calling it gives the prompt, differentiable.

    Args:
        head: the head that the prompt is for.
        start: the prompt to begin from, ``[P]``; it is not changed.
        tokens: of the samples. The units of the prefix are measured on the first of them.
        modality: of the samples.
        options: of the method: ``lr``, ``text_lr``, ``scale_shift_lr`` and ``scale_shift_rank`` are used.
        generator: draws the directions of ``scale_shift_rank``.

    Attributes:
        groups: the parameters and their learning rates, as ``train_groups`` takes them.
    """

    def __init__(
        self,
        head: TokenScaleShiftHead,
        start: Tensor,
        tokens: Tokens,
        modality: str,
        options: Any,
        generator: torch.Generator,
    ):
        self._prompt = PromptInTraining(
            head,
            start,
            modality,
            width=tokens.tokens.shape[2],
            rank=options.scale_shift_rank,
            generator=generator,
            units=prefix_units(head.encoder, tokens[:UNIT_SAMPLES], modality),
        )
        own_rate = head.encoder.tower(modality) == "text" and options.text_lr != "auto"
        self.groups: list[tuple[list[Tensor], float]] = [
            ([self._prompt.prefix], options.text_lr if own_rate else options.lr),
            (self._prompt.pairs, options.scale_shift_lr),
        ]

    def __call__(self) -> Tensor:
        return self._prompt()


def train_with_classifier(
    method: Method, data: TaskData, bank: TokenScaleShiftBank, classifier: GrowingClassifier, generator: torch.Generator
) -> Tensor:
    """Train a new prompt on one task, together with a classifier of the task's classes alone.

        loss = CE(W f + b, y)

    Several processes may train it together. The bank's prompts do not change.

    Args:
        method: its phases and checkpoints are used. Its options have ``classifier_lr`` and all that
            ``PromptOptions`` has.
        data: the task.
        bank: makes a new prompt for such samples.
        classifier: empty. It gets a row for each class, in the order of ``data.classes``, and is trained in place.
        generator: the source of all random numbers.

    Returns:
        The prompt ``[P]``.

    Raises:
        RunError: the loss became NaN or infinite.
    """
    o, target, head, modality = method.options, data.targets, bank.head, data.modality
    bank.reserve(data.tokens, modality)
    start = fresh_prompt(bank, data.tokens, modality, generator)
    prompt = PromptTraining(head, start, data.tokens, modality, o, generator)
    classifier.grow(len(data.classes))
    columns, dropped = list(range(len(data.classes))), channel_dropout(o)
    plan = step_batches(len(target), o.batch_size, step_count(len(target), o), generator)

    def loss(step: int) -> Tensor:
        rows, share = distributed.shard_batch(plan[step].to(target.device))
        batch = drop_random_channels(subset(data.tokens, rows), len(plan[step]), dropped, generator)
        z = head.head(batch, prompt(), modality)
        return share * classifier.loss(z, target[rows], columns, unit_query(batch))

    groups = [*prompt.groups, (classifier.parameters, o.classifier_lr)]
    with method.phase("prompts", len(plan)) as shown:
        train_groups(groups, len(plan), loss, None, shown.advance, generator, method.checkpoints)
    return prompt().detach()
