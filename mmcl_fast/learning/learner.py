"""The learner: one model that learns tasks one after another."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmcl_fast import distributed
from mmcl_fast.encoders import Encoder, Tokens, load_encoder
from mmcl_fast.errors import ConfigError, RunError, StreamError
from mmcl_fast.feature_cache.cache import CACHE_GB, FeatureCache, machine_memory
from mmcl_fast.learning import checkpoint, evaluation, saving
from mmcl_fast.learning.calibration import Calibration
from mmcl_fast.learning.class_changes import ClassChanges
from mmcl_fast.learning.classes import add_classes, task_data
from mmcl_fast.learning.comparison import Comparison, compare_predictions
from mmcl_fast.learning.evaluation import Evaluation
from mmcl_fast.learning.model import require_finite, spec_of, trunk_tokens, trunk_tokens_of_all
from mmcl_fast.learning.predict import FilePredictions
from mmcl_fast.learning.predictions import predictions_of
from mmcl_fast.learning.unknown import UnknownScores
from mmcl_fast.learning.versions import Version, list_versions, run_of
from mmcl_fast.media.registry import MODALITIES
from mmcl_fast.media.spec import Spec, adjust, default_spec
from mmcl_fast.methods import Classes, make_options, method_class, option_values, upgrade_options
from mmcl_fast.methods.shared.training_steps import NoCheckpoints, StepCheckpoints
from mmcl_fast.progress import ProgressChoice, choose_display
from mmcl_fast.streams.class_edits import require_one_name, with_current_names
from mmcl_fast.streams.sample import ClassId, Sample, Task

FORMER_NAMES = {  # of attributes: what each is now
    "classes_with": "mmcl_fast.learning.classes.add_classes(classes, task, encoder)",
    "journal": "Learner.checkpoints",
    "own_tokens": "mmcl_fast.learning.model.trunk_tokens_of_shard(learner, samples, title)",
}


class Learner(ClassChanges, FilePredictions):
    """Learns tasks one after another, evaluates and predicts.

    Example::

        stream = mf.Stream.from_folder("data/")
        learner = mf.Learner(encoder="openai/clip-vit-base-patch32", method="comm", cache_dir="auto")
        for task in stream:
            learner.learn(task)
            print(learner.evaluate(stream.seen).table())
        learner.save("model/")

    Args:
        encoder: ``"embedded"``, a CLIP or SigLIP by hub name or folder, or an ``Encoder``.
        method: a name in ``mmcl_fast.methods.METHODS``.
        options: options of the method, by name; the others keep their defaults.
        seed: fixes everything random.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; ``auto`` takes a CUDA GPU where there is one.
        cache_dir: the folder that keeps trunk tokens between runs; ``"auto"``: the user's cache folder; None: a
            temporary folder that is deleted with the learner.
        prompt_blocks: number of blocks of a CLIP or SigLIP that get prompts, or ``"all"``; see ``load_encoder``.
        views: cached views of each training sample: the plain one and ``views - 1`` random ones.
        workers: number of decoding threads.
        progress: a display of ``mmcl_fast.progress``; None shows nothing. ``"auto"``: bars in a terminal or notebook.
        cache_gb: limit of all trunk tokens in ``cache_dir``, in 10^9 bytes.
        precision: precision of matrix products above the cut: ``fp32``, ``bf16``, or ``auto``, which is bf16 where the
            hardware multiplies bf16.
        media: the config's [media] section: limits of files, and what depth maps hold; see
            ``mmcl_fast.media.spec.adjust``.

    Attributes:
        encoder, method, cache: the parts, as built from the arguments.
        classes: the classes learned so far: ``keys`` (modality, name), ``texts``, ``embedding`` ``[C, D]``.
        tasks: a record of each task learned: its ``name``, ``modality``, ``classes`` and ``class_ids``.
        settings: the arguments that are saved with the model.
        calibration: the temperatures of its probabilities, see :meth:`calibrate`.
        aliases: the former key of each renamed class -> its key of today.
        unknown: scores samples for belonging to none of the classes.
        run: the run folder that it was loaded from or was learned into; None: it belongs to no run.
        checkpoints: where the states of training loops are kept while a task is learned; nowhere by default.

    Raises:
        ConfigError: an option or a [media] setting is wrong, or several processes run a method for one process.
        EncoderError: the encoder cannot be loaded.
    """

    def __init__(
        self,
        encoder: str | Encoder = "embedded",
        method: str = "comm",
        *,
        options: dict[str, Any] | None = None,
        seed: int = 0,
        device: str = "auto",
        cache_dir: str | Path | None = None,
        prompt_blocks: int | str | None = None,
        views: int = 1,
        workers: int = 2,
        progress: ProgressChoice = "auto",
        cache_gb: float = CACHE_GB,
        precision: str = "auto",
        media: Mapping[str, Any] | None = None,
    ):
        media = {name: value for name, value in (media or {}).items() if value is not None}
        progress = choose_display(progress)
        for modality in MODALITIES:
            adjust(default_spec(modality), media)  # raises ConfigError for a setting that no spec takes
        chosen = make_options(method, options)
        # ``vars``, not getattr: a subclass must say it again for its own losses.
        if distributed.world_size() > 1 and not vars(method_class(method)).get("supports_distributed"):
            raise ConfigError(f"method {method}: learns in one process only; leave out --devices or torchrun")
        self.settings: dict[str, Any] = {
            "method": method,
            "options": option_values(chosen),
            "seed": seed,
            "views": views,
            "prompt_blocks": prompt_blocks,
            "precision": precision,
            "media": media,
        }
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.encoder = (
            load_encoder(encoder, device=device, prompt_blocks=prompt_blocks, precision=precision)
            if isinstance(encoder, str)
            else encoder.to(device)
        )
        self.method = method_class(method)(self.encoder, chosen, seed=seed, progress=progress)
        self.cache = FeatureCache(
            cache_dir,
            budget_gb=cache_gb,
            workers=workers,
            media=media,
            memory=machine_memory() // (4 * distributed.processes_per_machine()),
        )
        self.views, self.seed, self.progress = views, seed, progress
        self.checkpoints: StepCheckpoints = NoCheckpoints()
        self.classes = Classes(embedding=torch.empty(0, self.encoder.dim, device=self.encoder.device))
        self.tasks: list[dict[str, Any]] = []
        self.calibration = Calibration()
        self.aliases: dict[ClassId, ClassId] = {}
        self.unknown = UnknownScores()
        self.run: Path | None = None

    def learn(self, task: Task) -> dict[str, float]:
        """Learn the training samples of one task.

        Whatever goes wrong, such as a broken file or an interrupt, what was learned before stays as it was.

        Returns:
            Seconds per phase. "bookkeeping" is the time not counted in any other phase, for example class texts and
            the copy that undoes a failed task.

        Raises:
            StreamError: the task has no training sample, or a class under its former name and its name of today.
            MediaError: a file is broken.
            RunError: the loss or a learned tensor is not finite.
        """
        started = time.perf_counter()
        require_one_name([task], self.aliases)
        task = with_current_names(task, self.aliases)
        samples = task.train
        if not samples:
            raise StreamError(f"task {task.name}: no training sample; add files to its train split")
        self.method.seconds = {}
        title = f"{task.name}: decode and trunk"
        tokens = trunk_tokens_of_all(self, samples, title, views=self.views)
        trunk_seconds = time.perf_counter() - started
        classes = add_classes(self.classes, task, self.encoder)
        data = task_data(task, len(self.tasks), tokens, classes, self.views, self.encoder.device)
        tensors, values = self.method.state()
        tensors = {k: v.clone() for k, v in tensors.items()}
        self.method.checkpoints = self.checkpoints
        try:
            self.method.learn(data, classes)
            require_finite(self.method.state()[0])
            unknown = self.unknown.copy()
            recordings = [sample.group or sample.key for sample in samples] * self.views
            unknown.add(tokens, task.modality, data.classes, data.labels, recordings)
        except BaseException as fault:
            self._reset(tensors, values)
            if isinstance(fault, RunError):
                raise type(fault)(f"task {task.name}: {fault}") from None
            raise
        self.classes, self.unknown = classes, unknown
        self.tasks.append(saving.task_record(task))
        seconds = {"decode and trunk": trunk_seconds, **self.method.seconds}
        return {**seconds, "bookkeeping": time.perf_counter() - started - sum(seconds.values())}

    def finish(self) -> dict[str, float]:
        """Train a method that needs all tasks' data, after the last task.

        Such a method otherwise trains when scores are first asked for. Other methods do nothing.

        Returns:
            Seconds per phase.
        """
        self.method.seconds = {}
        self.method.checkpoints = self.checkpoints
        self.method.finish(self.classes)
        return self.method.seconds

    def calibrate(self, tasks: Sequence[Task], split: str = "val") -> Calibration:
        """Fit the temperatures of the probabilities on samples that were not learned, and return them.

        Answers do not change. Learning a task keeps the temperatures, so calibrate again after it.

        Args:
            tasks: tasks that were learned.
            split: the split of the samples. The calibration error of the same samples would say nothing.

        Raises:
            MediaError: a file is broken.
        """
        self.calibration = evaluation.calibrate(self, tasks, split)
        return self.calibration

    def tokens(self, samples: Sequence[Sample], title: str, views: int = 1, keep: bool = False) -> Tokens:
        """Return trunk tokens of samples of one modality, as ``mmcl_fast.learning.model.trunk_tokens`` does."""
        return trunk_tokens(self, samples, title, views=views, keep=keep)

    def evaluate(
        self, tasks: Sequence[Task], *, setting: str = "both", split: str = "test", upcoming: Sequence[Task] = ()
    ) -> Evaluation:
        """Compute the accuracy on each task's samples of a split; every sample is predicted by itself.

        For a task that was learned, the classes learned compete. For a task that was not, the classes learned and the
        classes of all tasks that were not compete, ``upcoming`` included.

        Args:
            tasks: one or more tasks.
            setting: ``agnostic``, ``given`` or ``both``; see ``mmcl_fast.learning.settings.SETTINGS``.
            split: ``test`` or ``val``.
            upcoming: tasks whose classes also compete for the samples of tasks that are not learned.

        Raises:
            ValueError: ``setting`` has another value.
            StreamError: no task, or a task without a sample in the split.
            MediaError: a file is broken.
        """
        return evaluation.evaluate(self, tasks, setting, split, upcoming)

    def compare(self, other: Learner, tasks: Sequence[Task], *, setting: str = "both") -> Comparison:
        """Compare the answers of this learner with another's, on the test samples of the same tasks.

        Example::

            before = mf.Learner.load("model/")
            learner.learn(task)
            learner.compare(before, stream.seen).differences[0].fall  # points lost over all tasks

        Args:
            other: the learner that counts as the one before.
            tasks: tasks that both have learned.
            setting: what both are evaluated for, as in :meth:`evaluate`. The first one is compared.

        Raises:
            StreamError, MediaError: as in :meth:`evaluate`.
        """
        before, after = (predictions_of(each.evaluate(tasks, setting=setting)) for each in (other, self))
        return compare_predictions(before.renamed(self.aliases), after, [(t.name, t.modality) for t in tasks])

    @property
    def versions(self) -> list[Version]:
        """The versions of the run that it belongs to, oldest first; without a run there are none.

        They are read from the run folder each time, as ``mmcl_fast.runs.list_versions`` does.

        Example::

            learner = mf.Learner.load("runs/demo")
            [(version.number, version.source, version.last) for version in learner.versions]

        Raises:
            RunError: the run folder is gone.
        """
        return [] if self.run is None else list_versions(self.run)

    def spec(self, modality: str) -> Spec:
        """Return how files of a modality are prepared: the encoder's way, with the settings of [media]."""
        return spec_of(self, modality)

    def contribution_matrix(self) -> tuple[list[str], list[list[float]]] | None:
        """Return the mean contribution of each modality (column) to samples of each modality (row).

        Returns:
            The M modalities seen so far and M rows of M weights. None for a method without contributions, and before
            the first task.
        """
        return self.method.contribution_matrix()

    def save(self, folder: str | Path) -> None:
        """Write everything learned: model.safetensors, state.json, and manifest.json with their checksums.

        Raises:
            RunError: the folder holds files other than a saved learner, or cannot be written.
        """
        checkpoint.write(Path(folder), *self.contents())

    def contents(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what :meth:`save` writes: tensors and JSON values."""
        return saving.contents(self)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        encoder: str | Encoder | None = None,
        device: str = "auto",
        cache_dir: str | Path | None = None,
        workers: int = 2,
        progress: ProgressChoice = "auto",
        cache_gb: float = CACHE_GB,
        precision: str | None = None,
    ) -> Learner:
        """Load a learner that :meth:`save` wrote, or the newest checkpoint of a run folder of ``mmcl-fast train``.

        Args:
            folder: the saved learner or the run folder. Of a run with versions the current one is loaded.
            encoder: in place of the encoder that the checkpoint names, for example the folder of its weights.
            precision: None: the precision that the learner learned with.

        The other arguments are the arguments of ``Learner``.

        Raises:
            RunError: a file is missing or broken, or the encoder's weights are not the learner's.
        """
        run = run_of(Path(folder))
        folder, tensors, values = saving.read_model(Path(folder))
        self = cls(
            encoder or values["encoder"],
            values["method"],
            options=upgrade_options(values["method"], values["options"]),
            seed=values["seed"],
            device=device,
            cache_dir=cache_dir,
            prompt_blocks=values["prompt_blocks"],
            precision=precision or values["precision"],
            views=values["views"],
            workers=workers,
            progress=progress,
            cache_gb=cache_gb,
            media=values["media"],
        )
        if self.encoder.fingerprint != values["fingerprint"]:
            raise RunError(
                f"{folder}: learned with other weights of encoder {values['encoder']!r}; "
                "give the folder of the original ones"
            )
        self.restore(tensors, values, folder)
        self.run = run
        return self

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any], where: Path) -> None:
        """Take over the contents of a checkpoint.

        Args:
            tensors, values: as :meth:`contents` returns them.
            where: the checkpoint's folder, for the error's message.

        Raises:
            RunError: the contents are incomplete, or are not of this method and encoder.
        """
        saving.restore(self, tensors, values, where)

    def describe(self) -> dict[str, Any]:
        """Return the method, all of its options, the encoder and the seed, for the record of a run."""
        return {
            "method": self.method.name,
            "options": option_values(self.method.options),
            "encoder": self.encoder.name,
            "seed": self.seed,
        }

    if not TYPE_CHECKING:  # a type checker would take every attribute for granted

        def __getattr__(self, name: str) -> object:
            now = f": it is now {FORMER_NAMES[name]}" if name in FORMER_NAMES else ""
            raise AttributeError(f"'Learner' object has no attribute {name!r}{now}")
