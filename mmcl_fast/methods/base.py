"""What a method is: it learns one task at a time and scores samples over the classes known so far."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.shared.embedding import Reuse
from mmcl_fast.methods.shared.training_steps import NoCheckpoints, StepCheckpoints


@dataclass
class Classes:
    """The classes known so far, in order of appearance; a class is a (modality, name) pair.

    Attributes:
        keys: C pairs (modality, name).
        texts: C class texts.
        embedding: ``[C, D]`` float32, unit rows.
    """

    keys: list[tuple[str, str]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    embedding: Tensor = field(default_factory=lambda: torch.empty(0, 0))

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def place(self) -> dict[tuple[str, str], int]:
        """Each class's id, by its key."""
        return {key: number for number, key in enumerate(self.keys)}


@dataclass
class TaskData:
    """A task as a method sees it: cached trunk tokens, never files.

    Attributes:
        index: place in the order of learning, from 0.
        modality: m(t).
        tokens: the trunk's output of n training samples (all views).
        labels: ``[n]`` int64, global class ids.
        classes: the task's global class ids.
    """

    index: int
    modality: str
    tokens: Tokens
    labels: Tensor
    classes: list[int]

    @property
    def targets(self) -> Tensor:
        """``[n]`` int64: each label's place in ``classes``."""
        own = torch.tensor(self.classes, device=self.labels.device)
        return (self.labels.unsqueeze(1) == own).int().argmax(1)


class Method(ABC):
    """Base of all methods. Subclasses set ``name`` and ``Options`` (a frozen dataclass)."""

    name: ClassVar[str]
    Options: ClassVar[type]
    shares: ClassVar[bool] = (
        False  # True: several processes may learn together, each loss is that of ``distributed.shard_batch``
    )
    cumulative: ClassVar[bool] = False  # True: needs all tasks' data, evaluated after the last task only
    reads_texts: ClassVar[bool] = False  # True: scores any class by its text, learned or not

    def __init__(self, encoder: Encoder, options: Any, *, seed: int = 0, progress: Any = None):
        self.encoder, self.options, self.seed, self.progress = encoder, options, seed, progress
        self.seconds: dict[str, float] = {}
        self.reuse = Reuse()
        self.checkpoints: StepCheckpoints = NoCheckpoints()

    @abstractmethod
    def learn(self, data: TaskData, classes: Classes) -> None:
        """Learn one task. ``classes`` already holds the task's classes."""

    @abstractmethod
    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        """``[B, C]`` scores, per instance. ``modality`` tells how the sample was decoded (which tower, how many
        frames); only when ``given`` may it choose prompts or gates."""

    def outputs(self, tokens: Tokens, modality: str, classes: Classes) -> dict[str, Tensor]:
        """What an exported graph gives, modality agnostic: ``logits [B, C]``, and where the method has them
        ``embedding [B, D]`` and ``contributions [B, M]``."""
        return {"logits": self.scores(tokens, modality, classes, given=False)}

    def embeddings(self, tokens: Tokens, modality: str) -> dict[str, Tensor]:
        """Where samples lie among the class texts, modality agnostic: what it is -> ``[B, D]``, unit rows. A method
        that learns no embedding of its own gives the encoder's."""
        z = self.reuse.one(self.encoder, tokens, modality)
        return {"of the encoder, without prompts": F.normalize(z, dim=-1)}

    def finish(self, classes: Classes) -> None:
        """Called after the last task; a cumulative method trains here, or when scores are first asked for."""

    @property
    def routes(self) -> bool:
        """Whether ``given`` can change scores now; where it can't, they are computed once for both settings."""
        return False

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything learned: tensors (for safetensors) and plain JSON values."""
        return {}, {}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Inverse of :meth:`state`."""

    def current(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """A state as :meth:`state` gives it today, where an older version wrote it."""
        return tensors, values

    def contributions(self, tokens: Tokens, modality: str, *, given: bool) -> dict[str, float] | None:
        """Mean contribution of each modality seen so far, as used for these samples; None for methods without any."""
        return None

    def contribution_matrix(self) -> tuple[list[str], list[list[float]]] | None:
        """Modalities seen, and the mean contribution (column) to a sample of each (row); None without any."""
        return None

    @property
    def journal(self) -> StepCheckpoints:
        """The earlier name of ``checkpoints``, for methods written before."""
        return self.checkpoints

    def generator(self, *salt: int) -> torch.Generator:
        """A CPU generator fixed by the seed and the salt, so that a resumed run draws the same numbers."""
        key = self.seed
        for value in salt:
            key = (key * 1_000_003 + value + 1) % (2**63 - 1)
        return torch.Generator().manual_seed(key)

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Any]:
        """Times a phase and shows it where there is a progress display."""
        start = time.perf_counter()
        try:
            if self.progress is None:
                yield _Quiet()
            else:
                with self.progress.phase(name, total) as shown:
                    yield shown
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class _Quiet:
    def advance(self, n: int = 1) -> None: ...
    def note(self, **numbers: float) -> None: ...
