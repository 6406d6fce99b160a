"""The options of COMM. docs/method.md explains them in the order of the method's steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mmcl_fast.methods.shared.options import (
    TINY,
    BatchSize,
    Epochs,
    LearningRate,
    MethodOptions,
    Positive,
    PromptLength,
    ReadingPromptCount,
    RelevancePenalty,
    ScaleShiftRank,
    ScaleShiftRate,
    Share,
    TextScaleShift,
    TokenScaleShift,
    Weight,
)
from mmcl_fast.option_fields import FormerName, FormerValue, Symbol, Tunable

ClassTargets = Annotated[
    Literal["classifier", "texts", "learned"],
    Field(
        description="What tells the classes apart in prompt learning: a linear classifier, the class texts, or targets "
        "learned from their dual basis"
    ),
    FormerName("codes"),
    Symbol("V_t"),
]
RealignmentStart = Annotated[
    Literal["closed", "zero"],
    Field(
        description="The beginning of re-alignment. closed: the closed form. zero: A random and B zero, so that "
        "realignment = closed does nothing"
    ),
    FormerValue("ridge", "closed"),
]


Realignment = Annotated[
    Literal["off", "closed", "trained"],
    Field(
        description="Alignment of the embeddings with all class texts after each task. off: none. closed: the closed "
        "form. trained: training that begins with the option start"
    ),
]


class CommOptions(MethodOptions):
    """Switches and sizes of COMM's steps. ``mmcl-fast train demo`` uses the defaults."""

    removed: ClassVar[Mapping[str, str]] = {
        "lambda_max": "prompt_prior now says how far an update is shrunk",
        "sigma": "prompt_prior now says how far an update is shrunk",
    }

    prompts: bool | Literal["auto"] = Field(
        "auto",
        description="Learn prompts; false: embeddings come from the bare head. auto: a modality learns them where they "
        "lower the error on held-out training samples",
    )
    prompt_updates: bool = Field(
        True, description="Train a modality's prompt on each of its tasks; false: on the first one that learns it"
    )
    prompt_length: PromptLength = 8
    token_scale_shift: TokenScaleShift = True
    text_scale_shift: TextScaleShift = False
    scale_shift_rank: ScaleShiftRank = 4
    channel_dropout: float = Field(
        0.2,
        ge=0,
        le=0.9,
        description="Share of the token channels that a sample loses in a step of prompt learning, at all positions "
        "alike",
    )
    class_targets: ClassTargets = "classifier"
    class_targets_lr: Annotated[LearningRate, FormerName("codes_lr")] = Field(
        0.003, description="Largest learning rate of the classifier, or of learned class targets"
    )
    epochs: Epochs = 20
    least_steps: int = Field(40, ge=0, description="Least training steps of a task's prompt, whatever epochs says")
    batch_size: BatchSize = 32
    lr: Annotated[LearningRate, Tunable(0.001, 0.3)] = Field(
        0.015, description="Largest learning rate of the vision tower's prefixes, in units of its keys and values"
    )
    text_lr: Annotated[LearningRate, Tunable(0.01, 3.0)] = Field(
        0.4, description="Largest learning rate of the text tower's prefixes, in units of its keys and values"
    )
    scale_shift_lr: Annotated[ScaleShiftRate, Tunable(0.005, 0.5, needs=("token_scale_shift", (True,)))] = 0.06
    self_regularisation: Annotated[Weight, Symbol(r"\beta"), Tunable(0.5, 32.0)] = Field(
        4.0,
        description="Weight of keeping the embeddings that the starting prompt gave, of the task's samples and of old "
        "classes' mean tokens; 0 switches it off",
    )
    aggregation: bool = Field(
        True, description="Shrink a prompt's update towards its start; false: the new prompt stays as it was trained"
    )
    prompt_prior: Annotated[float, Symbol(r"\kappa")] = Field(
        2.0, ge=0, description="Samples of a class that the starting prompt counts for in that shrinkage"
    )
    token_means: bool = Field(
        True,
        description="Keep the mean trunk tokens of each class, for self-regularisation and drift. false, and for texts "
        "always: estimate drift from the task's samples",
    )
    reading_prompts: ReadingPromptCount = 4
    blending: bool = Field(
        True,
        description="Blend prompts and re-alignments by contribution, and borrow prompts of other modalities; false: "
        "use the most relevant modality's alone",
    )
    relevance: Literal["analytic", "mlp"] = Field(
        "analytic",
        description="The relevance function. analytic: a linear discriminant. mlp: one hidden layer of 128. It is "
        "trained on the task's queries and on queries sampled from the feature memory, modalities weighted alike",
    )
    tau: Annotated[Positive, Symbol(r"\tau")] = Field(
        0.2, description="Temperature of the contributions; a lower one is nearer to one modality alone"
    )
    least_share: Annotated[Share, Symbol(r"\pi_{\min}")] = Field(
        0.02, description="Prompts with a smaller share of a sample's blend are left out"
    )
    relevance_penalty: RelevancePenalty = 0.01
    realignment: Realignment = "closed"
    start: RealignmentStart = "closed"
    rank: Annotated[int, Symbol("r")] = Field(
        512, ge=1, description="Largest rank of each modality's re-alignment; its spectrum may need less"
    )
    reads_query: bool = Field(
        True,
        description="Re-alignment reads the embedding, the trunk's query and the embeddings under reading prompts; "
        "false: the embedding alone",
    )
    dual_targets: bool = Field(
        True,
        description="The closed form turns class scores into embeddings by the class texts' dual basis; false: by the "
        "class texts",
    )
    penalty: Literal["auto"] | Annotated[float, Field(ge=TINY)] = Field(
        "auto",
        description="Penalty of the closed form, relative to the mean variance within a class. auto: a share of the "
        "penalty of generalised cross-validation. Held-out samples of each task choose the share",
    )
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
    class_rank: Annotated[int, Symbol("r_c")] = Field(4, ge=1, description="Rank of the covariance kept for a class")
    modality_rank: Annotated[int, Symbol("r_m")] = Field(
        256, ge=1, description="Rank of the pooled covariance kept for a modality"
    )
    shrink: Annotated[Literal["auto"] | Share, Symbol("a")] = Field(
        "auto",
        description="Share of the modality's pooled covariance in the covariance of a class. auto: 16 / (n + 15) for a "
        "class of n samples",
    )
