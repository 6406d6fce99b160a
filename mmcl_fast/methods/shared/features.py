"""The features that closed-form classifiers read: u = [z / |z| ; q / |q|], as COMM reads it.

z comes from the bare head. With ``adaptation``, each modality learns one prompt on its first task and z is taken under
it. That is the first phase of RanPAC (McDonnell et al. 2023, arXiv 2307.02251), here once for each modality. The prompt
is trained together with a linear classifier on z, and the classifier is thrown away:

    loss = CE(sqrt(D) z / |z| W + b, y) over the task's classes

It has COMM's prompt and COMM's way to train one (``prompt_training.py``), with COMM's defaults.
Later tasks of the modality leave its prompt as it is, so features of old samples never change.

With ``reading_prompts`` K, u has K further parts, made as COMM's are (``reading_prompts.py``), for every modality but
texts. Prompts that ``adaptation`` learned for earlier modalities come first. Without adaptation all K are random.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods.base import Method, TaskData
from mmcl_fast.methods.comm.relevance import Relevance
from mmcl_fast.methods.shared.classifier import GrowingClassifier
from mmcl_fast.methods.shared.embedding import unit_query
from mmcl_fast.methods.shared.options import (
    BatchSize,
    ClassifierRate,
    Epochs,
    MethodOptions,
    PromptLength,
    ReadingPromptCount,
    ScaleShiftRank,
    ScaleShiftRate,
)
from mmcl_fast.methods.shared.prompt_and_classifier import strip_prefix
from mmcl_fast.methods.shared.prompt_training import (
    COMM_CHANNEL_DROPOUT,
    COMM_LEAST_STEPS,
    ChannelDropout,
    LeastSteps,
    PrefixRate,
    TextRate,
    train_with_classifier,
)
from mmcl_fast.methods.shared.reading_prompts import ReadingPrompts
from mmcl_fast.methods.shared.token_scale_shift import TokenScaleShiftBank
from mmcl_fast.option_fields import Tunable, TunableChoices

FeatureSource = Literal["q", "z", "zq"]
Features = Annotated[
    FeatureSource,
    Field(description="What the classifier reads. q: the trunk's query. z: the head's embedding. zq: both"),
]
Adaptation = Annotated[
    Literal["none", "prefix", "scale_shift"],
    Field(
        description="The prompt of z that each modality learns on its first task, if any. scale_shift: a prefix, and "
        "scales and shifts of tokens except for text. Without z among the features nothing is learned"
    ),
]
RECOGNISER_PENALTY = 0.01  # COMM's default for its relevance function


class FeatureOptions(MethodOptions):
    """Options of methods that read features by a :class:`FeatureReader`."""

    features: Features = "zq"
    adaptation: Annotated[Adaptation, TunableChoices("none", "prefix", "scale_shift")] = "none"
    reading_prompts: ReadingPromptCount = 0
    prompt_length: PromptLength = 8
    scale_shift_rank: ScaleShiftRank = 4
    channel_dropout: ChannelDropout = COMM_CHANNEL_DROPOUT
    epochs: Epochs = 20
    least_steps: LeastSteps = COMM_LEAST_STEPS
    batch_size: BatchSize = 32
    lr: Annotated[PrefixRate, Tunable(0.001, 0.3, needs=("adaptation", ("prefix", "scale_shift")))] = 0.015
    text_lr: TextRate = 0.4
    scale_shift_lr: Annotated[ScaleShiftRate, Tunable(0.005, 0.5, needs=("adaptation", ("scale_shift",)))] = 0.06
    classifier_lr: ClassifierRate = 0.003


class FeatureReader:
    """Turns tokens into features ``[n, width]`` float32. Each part of a row has length 1.

    The part of a reading prompt is 0 for texts, and before the tower has reading prompts.

    By default it holds nothing and learns nothing. With adaptation it holds a prompt for each modality, and with
    ``reading_prompts`` K further ones. Where the modality is not given, a linear discriminant of the modalities chooses
    among the modalities of the sample's tower that have prompts.

    Args:
        method: its options are :class:`FeatureOptions`; its encoder, cache, generator and checkpoints are used.

    Attributes:
        width: D for z, Dq for q, D + Dq for both, and D for each reading prompt.
        adapts: prompts are learned.
        bank: the prompt of each modality.
        reading: the reading prompts of each modality.
        recogniser: the classifier of the modality.
    """

    def __init__(self, method: Method):
        self.method, self.encoder, self.options = method, method.encoder, method.options
        o = self.options
        self.width = (self.encoder.dim if "z" in o.features else 0) + (
            self.encoder.query_dim if "q" in o.features else 0
        )
        self.width += o.reading_prompts * self.encoder.dim
        self.adapts = o.adaptation != "none" and "z" in o.features
        self.bank = TokenScaleShiftBank(
            self.encoder,
            o.prompt_length,
            o.adaptation == "scale_shift",
            text_scale_shift=False,
            regrid=o.reading_prompts > 0,
        )
        self.reading = ReadingPrompts(self.encoder, o.reading_prompts, o.prompt_length, text_scale_shift=False)
        self.recogniser = Relevance(self.encoder.query_dim, "analytic", 1.0, RECOGNISER_PENALTY)

    @property
    def _has_prompts(self) -> bool:
        """Whether the options give modalities prompts of any kind."""
        return self.adapts or bool(self.reading.banks)

    @property
    def uses_given_modality(self) -> bool:
        """Whether ``given`` changes features in the present state."""
        return bool(self.bank.prompts or self.reading.modalities)

    def learn(self, data: TaskData) -> None:
        """Call it at the start of each task. A modality gets its prompts on its first task.

        Several processes train it together.

        Raises:
            RunError: the loss became NaN or infinite.
        """
        if not self._has_prompts:
            return
        with self.method.phase("relevance"):
            generator = self.method.generator(data.index, 1)
            self.recogniser.learn(unit_query(data.tokens), data.modality, {}, generator)
        if self.adapts and data.modality not in self.bank.prompts:
            classifier = GrowingClassifier(self.encoder.dim, self.encoder.device)
            generator = self.method.generator(data.index, 3)
            self.bank.prompts[data.modality] = train_with_classifier(
                self.method, data, self.bank, classifier, generator
            )
        if data.modality not in self.reading.modalities:
            generator = self.method.generator(data.index, 8)
            self.reading.choose(data.modality, data.tokens, self.bank, borrow=True, generator=generator)

    def __call__(self, tokens: Tokens, modality: str, *, given: bool) -> Tensor:
        """Return features ``[n, width]`` of n samples, without gradient.

        Args:
            tokens: the trunk's output.
            modality: how the samples were decoded.
            given: the modality also chooses the prompt, if it has one. Learning passes True.
        """
        parts, shares = [], self._shares(tokens, modality, given)
        setting = "given" if given else "agnostic"
        if "z" in self.options.features:
            parts.append(F.normalize(self._embed_z(tokens, modality, shares, setting), dim=-1))
        if "q" in self.options.features:
            parts.append(unit_query(tokens))
        for k, bank in enumerate(self.reading.banks):
            z = self._embed_under(bank, tokens, modality, shares, setting, f", reading {k}")
            if z is None:
                z = parts[0].new_zeros(parts[0].shape[0], self.encoder.dim)
            parts.append(F.normalize(z, dim=-1))
        return torch.cat(parts, dim=1)

    def embed(self, tokens: Tokens, modality: str) -> Tensor:
        """Return z ``[n, D]`` float32, not normalised, where the modality is not given."""
        return self._embed_z(tokens, modality, self._shares(tokens, modality, given=False), "agnostic")

    def _shares(self, tokens: Tokens, modality: str, given: bool) -> Tensor | None:
        """Return how much each sample resembles each modality, ``[n, M]``; None before the first task.

        A given modality has more than any other one, if it was learned.
        """
        known = self.recogniser.modalities
        if not known:
            return None
        shares = self.recogniser(unit_query(tokens))
        if given and modality in known:
            shares[:, known.index(modality)] = 2.0
        return shares

    def _embed_z(self, tokens: Tokens, modality: str, shares: Tensor | None, setting: str) -> Tensor:
        z = self._embed_under(self.bank, tokens, modality, shares, setting)
        return self.method.embedding_cache.embed_with_prompt(self.encoder, tokens, modality) if z is None else z

    def _embed_under(
        self,
        bank: TokenScaleShiftBank,
        tokens: Tokens,
        modality: str,
        shares: Tensor | None,
        setting: str,
        label: str = "",
    ) -> Tensor | None:
        """Return embeddings ``[n, D]`` under a bank's prompts; None: it has none for the samples' tower.

        Args:
            bank: the prompts.
            tokens: of n samples.
            modality: of the samples.
            shares: as ``_shares`` returns them.
            setting: "given" or "agnostic".
            label: tells the bank's prompts from other banks' in the cache.
        """
        tower = self.encoder.tower(modality)
        names = [name for name in bank.prompts if self.encoder.tower(name) == tower]
        if not names or shares is None:
            return None
        chosen = shares[:, [self.recogniser.modalities.index(name) for name in names]].argmax(1)
        prompts = {name + label: bank.prompt_for(name, modality) for name in names}
        one_hot = F.one_hot(chosen, len(names)).float()
        return self.method.embedding_cache.embed(bank.head, tokens, modality, prompts, one_hot, setting + label)

    def describe_prompts(self) -> list[str]:
        """Return a phrase about what was trained and holds no class apart; empty where nothing was."""
        parts = [("prompts", list(self.bank.prompts)), ("reading prompts", self.reading.modalities)]
        found = [f"the {kind} of {', '.join(names)}" for kind, names in parts if names]
        return [*found, "the classifier of the modality"] if found else []

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors whose names begin with ``adaptation/``, and values; both are empty without prompts."""
        if not self._has_prompts:
            return {}, {}
        recogniser, values = self.recogniser.state()
        reading, widths = self.reading.state()
        tensors = {f"adaptation/prompt/{name}": prompt for name, prompt in self.bank.prompts.items()}
        tensors |= {f"adaptation/reading/{name}": prompt for name, prompt in reading.items()}
        tensors |= {f"adaptation/recogniser/{name}": tensor for name, tensor in recogniser.items()}
        return tensors, {"adaptation": values} | ({"reading_widths": widths} if widths else {})

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Take over what :meth:`state` returned; other tensors and values are left to the method."""
        if not self._has_prompts:
            return
        self.recogniser.load_state(strip_prefix("adaptation/recogniser/", tensors), values["adaptation"])
        prompts, order = strip_prefix("adaptation/prompt/", tensors), self.recogniser.modalities
        widths = values.get("reading_widths", {})
        self.bank.load({name: prompts[name] for name in order if name in prompts}, widths)
        self.reading.load_state(strip_prefix("adaptation/reading/", tensors), widths, order)
