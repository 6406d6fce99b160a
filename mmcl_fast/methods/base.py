"""The protocol of a method: it learns one task at a time and scores samples over the classes known so far."""

from __future__ import annotations

import time
import types
import warnings
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
from mmcl_fast.methods.shared.embedding import EmbeddingCache
from mmcl_fast.methods.shared.training_steps import NoCheckpoints, StepCheckpoints
from mmcl_fast.option_fields import FormerNameWarning

# Attributes of a method class by the names of earlier versions: the name of today, and the kind of attribute.
FORMER_ATTRIBUTES: dict[str, tuple[str, type]] = {
    "shares": ("supports_distributed", bool),
    "cumulative": ("needs_all_tasks", bool),
    "reads_texts": ("scores_texts", bool),
    "routes": ("uses_given_modality", property),
    "current": ("migrate_state", types.FunctionType),
}


@dataclass
class Classes:
    """The classes known so far, in order of appearance. A class is a (modality, name) pair.

    Attributes:
        keys: C pairs (modality, name).
        texts: C class texts.
        embedding: ``[C, D]`` float32, unit rows: the texts' embeddings.
    """

    keys: list[tuple[str, str]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    embedding: Tensor = field(default_factory=lambda: torch.empty(0, 0))

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def ids(self) -> dict[tuple[str, str], int]:
        """Key of a class -> its id, which is its position in ``keys``."""
        return {key: number for number, key in enumerate(self.keys)}


@dataclass
class TaskData:
    """A task as a method gets it: trunk tokens, never files.

    Attributes:
        index: position of the task in the order of learning, from 0.
        modality: modality of its samples.
        tokens: the trunk's output of n training samples (all views).
        labels: ``[n]`` int64, ids of classes.
        classes: ids of the task's classes.
        views: views of each sample: the rows hold one view of all samples after the other.
    """

    index: int
    modality: str
    tokens: Tokens
    labels: Tensor
    classes: list[int]
    views: int = 1

    @property
    def targets(self) -> Tensor:
        """``[n]`` int64: the position of each label in ``classes``."""
        ids = torch.tensor(self.classes, device=self.labels.device)
        return (self.labels.unsqueeze(1) == ids).int().argmax(1)


class Method(ABC):
    """Base of all methods. A subclass sets ``name`` and ``Options``, and implements ``learn`` and ``scores``.

    Attributes:
        name: the method's name in configs and on the command line.
        Options: the class of its options, a ``MethodOptions``.
        supports_distributed: several processes may train it together. Then each process computes the loss of
            its part of a batch, ``distributed.shard_batch``.
        needs_all_tasks: it learns from all tasks' data at once, after the last task, and is evaluated only then.
        scores_texts: it can score any class by its text, learned or not.
        class_state: prefixes of the names in ``state()[0]`` whose tensors are kept for single classes. The other
            tensors count as a fixed cost.
        encoder: the frozen encoder.
        options: an ``Options``.
        seed: fixes everything random.
        progress: the progress display, or None.
        seconds: phase of learning -> time spent in it.
        embedding_cache: embeddings of samples that were computed before.
        checkpoints: keeps the state of training loops, so that a stopped run goes on inside a task.
    """

    name: ClassVar[str]
    Options: ClassVar[type]
    supports_distributed: ClassVar[bool] = False
    needs_all_tasks: ClassVar[bool] = False
    scores_texts: ClassVar[bool] = False
    class_state: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **others: Any) -> None:
        super().__init_subclass__(**others)
        for former, (name, kind) in FORMER_ATTRIBUTES.items():
            value = vars(cls).get(former)
            # The kind is checked: a custom method may use such a name for something of its own.
            if isinstance(value, kind) and name not in vars(cls):
                warnings.warn(
                    f"{cls.__name__}.{former} is called {name} now; the former name still works",
                    FormerNameWarning,
                    stacklevel=2,
                )
                setattr(cls, name, value)

    def __init__(self, encoder: Encoder, options: Any, *, seed: int = 0, progress: Any = None):
        self.encoder, self.options, self.seed, self.progress = encoder, options, seed, progress
        self.seconds: dict[str, float] = {}
        self.embedding_cache = EmbeddingCache()
        self.checkpoints: StepCheckpoints = NoCheckpoints()

    @abstractmethod
    def learn(self, data: TaskData, classes: Classes) -> None:
        """Learn one task. ``classes`` already holds the task's classes."""

    @abstractmethod
    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        """Return the scores of samples over all classes, ``[B, C]``.

        The scores of a sample must not depend on the other samples of the batch.

        Args:
            tokens: the trunk's output of B samples of one modality.
            modality: how the samples were decoded; it names their tower and their number of frames.
            classes: the C classes to score.
            given: True: the modality may also choose prompts and gates. False: only the sample itself may.
        """

    def outputs(self, tokens: Tokens, modality: str, classes: Classes) -> dict[str, Tensor]:
        """Return what an exported graph gives, by name, with the modality not given.

        Returns:
            ``logits [B, C]``; a method may add ``embedding [B, D]`` and ``contributions [B, M]``.
        """
        return {"logits": self.scores(tokens, modality, classes, given=False)}

    def embeddings(self, tokens: Tokens, modality: str) -> dict[str, Tensor]:
        """Return samples' embeddings in the space of the class texts, with the modality not given.

        Returns:
            Description of an embedding -> ``[B, D]``, unit rows. A method that learns no embedding returns the
            encoder's.
        """
        z = self.embedding_cache.embed_with_prompt(self.encoder, tokens, modality)
        return {"of the encoder, without prompts": F.normalize(z, dim=-1)}

    def finish(self, classes: Classes) -> None:
        """Called after the last task. A method that needs all tasks trains here, or when scores are first asked for."""

    def remove_class(self, label: int, classes: Classes, index: int) -> list[str]:
        """Take a class out of what was learned, without any sample. The ids of later classes become smaller by one.

        Args:
            label: the class's id.
            classes: the classes that remain, at least one.
            index: number of the last task, from 0, for the generator.

        Returns:
            What still holds a share of the class, each as a phrase; empty where nothing does.

        Raises:
            NotImplementedError: the method cannot. Then learning again without the class is the only way.
        """
        raise NotImplementedError

    def update_class_texts(self, classes: Classes, index: int) -> None:
        """Called after class texts have changed. ``index`` is the number of the last task, from 0."""

    @property
    def uses_given_modality(self) -> bool:
        """Whether ``given`` changes scores in the present state. Where it doesn't, scores are computed only once."""
        return False

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return everything learned: tensors (for safetensors) and plain JSON values."""
        return {}, {}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Take over what :meth:`state` returned."""

    def migrate_state(
        self, tensors: dict[str, Tensor], values: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Convert a state that an older version wrote to the form that :meth:`state` returns today."""
        return tensors, values

    def contributions(self, tokens: Tokens, modality: str, *, given: bool) -> dict[str, float] | None:
        """Return each modality's mean contribution to these samples.

        None for a method without contributions, and before the first task.
        """
        return None

    def contribution_matrix(self) -> tuple[list[str], list[list[float]]] | None:
        """Return the modalities seen, and for samples of each (row) every modality's mean contribution (column).

        None for a method without contributions, and before the first task.
        """
        return None

    def generator(self, *salt: int) -> torch.Generator:
        """Return a CPU generator fixed by the seed and the salt, so that a resumed run draws the same numbers."""
        key = self.seed
        for value in salt:
            key = (key * 1_000_003 + value + 1) % (2**63 - 1)  # manual_seed takes 64 bits with a sign
        return torch.Generator().manual_seed(key)

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Any]:
        """Time a phase of learning, and show it where there is a progress display.

        Args:
            name: of the phase, in ``seconds`` and on the display.
            total: number of steps; None: unknown.

        Yields:
            An object with ``advance(n)`` and ``note(**numbers)``.
        """
        start = time.perf_counter()
        try:
            if self.progress is None:
                yield _NoDisplay()
            else:
                with self.progress.phase(name, total) as shown:
                    yield shown
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    # ---- former names, for custom methods that were written for earlier versions ------------------------------

    @property
    def journal(self) -> StepCheckpoints:
        """The former name of ``checkpoints``."""
        return self.checkpoints

    @property
    def reuse(self) -> EmbeddingCache:
        """The former name of ``embedding_cache``."""
        return self.embedding_cache


class _NoDisplay:
    def advance(self, n: int = 1) -> None: ...
    def note(self, **numbers: float) -> None: ...
