"""The learner: one model that learns tasks one after another."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmcl_fast import distributed
from mmcl_fast.encoders import Encoder, Tokens, load_encoder
from mmcl_fast.errors import ConfigError, RunError, StreamError
from mmcl_fast.feature_cache.cache import CACHE_GB, TrunkCache, machine_memory
from mmcl_fast.learning import checkpoint, evaluation
from mmcl_fast.learning.evaluation import Evaluation
from mmcl_fast.learning.predict import Line, Prediction, Predictor, sound
from mmcl_fast.learning.random_state import generators
from mmcl_fast.media.registry import MODALITIES
from mmcl_fast.media.spec import Spec, adjust, default_spec
from mmcl_fast.methods import Classes, TaskData, make_options, method_class
from mmcl_fast.methods.shared.training_steps import NoCheckpoints, StepCheckpoints
from mmcl_fast.streams.sample import Sample, Task


class Learner:
    """Learns tasks, remembers them, predicts.

    Args:
        encoder: ``"embedded"``, a CLIP or SigLIP by hub name or folder, or an ``Encoder``.
        method: see ``mmcl_fast.methods.METHODS``.
        options: the method's options by name.
        seed: fixes everything random.
        device: ``"auto"`` takes a CUDA GPU where there is one.
        cache_dir: where trunk tokens are kept between runs; "auto": the user's cache folder; None: for this process
            only.
        cache_gb: the most that all trunk tokens in that folder may take, 10^9 bytes.
        prompt_blocks: for CLIP and SigLIP, see ``load_encoder``.
        precision: of matrix products above the cut: "fp32", "bf16", or "auto": bf16 where the hardware multiplies it.
        views: cached views of each training sample; the first is the plain one.
        workers: decoding threads.
        progress: an object as in ``mmcl_fast.progress``; None shows nothing.
        media: limits, and what depth maps hold, as in the config's [media]; see ``mmcl_fast.media.spec.adjust``.
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
        progress: Any = None,
        cache_gb: float = CACHE_GB,
        precision: str = "auto",
        media: Mapping[str, Any] | None = None,
    ):
        media = {name: value for name, value in (media or {}).items() if value is not None}
        for modality in MODALITIES:
            adjust(default_spec(modality), media)  # refuses what no spec takes
        chosen = make_options(method, options)
        if distributed.world_size() > 1 and not vars(method_class(method)).get("shares"):  # not inherited
            raise ConfigError(f"method {method}: learns in one process only; leave out --devices or torchrun")
        self.settings: dict[str, Any] = {
            "method": method,
            "options": dataclasses.asdict(chosen),
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
        self.cache = TrunkCache(
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

    # ---- learning -------------------------------------------------------------------------------------------

    def learn(self, task: Task) -> dict[str, float]:
        """Learn one task's training samples. Returns seconds per phase; "bookkeeping" is all that is in no other:
        class texts, the copy that undoes a task that fails, the check for what is not finite.

        Whatever goes wrong (a broken file, an interrupt), what was learned before stays as it was.

        Raises:
            RunError: the loss or what was learned is not finite.
        """
        started = time.perf_counter()
        samples = task.train
        if not samples:
            raise StreamError(f"task {task.name}: no training sample; add files to its train split")
        self.method.seconds = {}
        if distributed.world_size() > 1:  # each its part, into the cache where all find the rest
            self.own_tokens(distributed.shard(samples), f"{task.name}: decode and trunk", views=self.views)
        tokens = self.tokens(samples, f"{task.name}: decode and trunk", views=self.views)
        trunk_seconds = time.perf_counter() - started
        classes = self.classes_with(task, self.classes)
        ids = {name: classes.place[key] for name, key in zip(task.classes, task.class_ids)}
        labels = torch.tensor([ids[s.label] for s in samples] * self.views, device=self.encoder.device)
        data = TaskData(len(self.tasks), task.modality, tokens, labels, [ids[name] for name in task.classes])
        tensors, values = self.method.state()
        tensors = {k: v.clone() for k, v in tensors.items()}
        self.method.checkpoints = self.checkpoints
        try:
            self.method.learn(data, classes)
            for key, learned in self.method.state()[0].items():
                if (
                    learned.is_floating_point()
                    and learned.numel()
                    and not torch.stack(learned.aminmax()).isfinite().all()
                ):  # far faster than isfinite() of all
                    raise RunError(
                        f"{key} is not finite after learning; look at the task's files, or change method.options"
                    )
        except BaseException as fault:
            self._reset(tensors, values)
            if isinstance(fault, RunError):
                raise type(fault)(f"task {task.name}: {fault}") from None
            raise
        self.classes = classes
        self.tasks.append(
            {
                "name": task.name,
                "modality": task.modality,
                "classes": list(task.classes),
                "class_ids": [list(c) for c in task.class_ids],
            }
        )
        seconds = {"decode and trunk": trunk_seconds, **self.method.seconds}
        return {**seconds, "bookkeeping": time.perf_counter() - started - sum(seconds.values())}

    def finish(self) -> dict[str, float]:
        """After the last task: a cumulative method trains now rather than when scores are first asked for. Returns
        seconds per phase."""
        self.method.seconds = {}
        self.method.checkpoints = self.checkpoints
        self.method.finish(self.classes)
        return self.method.seconds

    def _reset(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        if self.method.cumulative:
            return  # it learns by keeping the task's data, as its last act
        fresh = type(self.method)(self.encoder, self.method.options, seed=self.seed, progress=self.progress)
        if tensors or self.tasks:
            fresh.load_state(tensors, values)
        self.method = fresh

    def classes_with(self, task: Task, classes: Classes) -> Classes:
        """The class book with a task's classes added; a class met before keeps its id. A text that another class
        already has ("dog" seen, then heard) is told apart by the modality: "dog (audio)"."""
        new = {key: text for key, text in zip(task.class_ids, task.texts) if key not in classes.place}
        if not new:
            return classes
        keys, texts, taken = [*classes.keys, *new], list(classes.texts), set(classes.texts)
        for key, text in new.items():
            texts.append(f"{text} ({key[0]})" if text in taken else text)
            taken.add(texts[-1])
        embedded = self.encoder.text(texts[len(classes) :]).to(self.encoder.device)
        return Classes(keys, texts, torch.cat([classes.embedding, embedded]))

    def tokens(self, samples: Sequence[Sample], title: str, views: int = 1, keep: bool = False) -> Tokens:
        """Trunk tokens of samples of one modality, at least one; ``title`` is shown while they are computed."""
        with distributed.propagate_errors(), self.method.phase(title, len(samples) * views) as shown:
            tokens = self.cache.tokens(
                self.encoder, samples, views=views, seed=self.seed, advance=shown.advance, keep=keep
            )
        self.method.seconds.pop(title, None)
        return tokens

    def own_tokens(self, samples: Sequence[Sample], title: str, views: int = 1, keep: bool = False) -> Tokens | None:
        """``tokens`` of the samples that this process was dealt; None where these are none."""
        if samples:
            return self.tokens(samples, title, views, keep)
        with distributed.propagate_errors():  # as the others do
            return None

    # ---- evaluation and prediction --------------------------------------------------------------------------

    def evaluate(
        self, tasks: Sequence[Task], *, setting: str = "both", split: str = "test", upcoming: Sequence[Task] = ()
    ) -> Evaluation:
        """Accuracy on each task's samples of a split, prediction by instance.

        Tasks that were learned are scored over the classes learned; tasks that were not, over the classes learned
        and those of all tasks given (and ``upcoming``) that were not.

        Args:
            setting: ``agnostic``, ``given`` or ``both``; see ``mmcl_fast.learning.evaluation.ABOUT``.
            split: ``test`` or ``val``.
            upcoming: tasks whose classes also compete for the samples of tasks not yet learned.
        """
        return evaluation.evaluate(self, tasks, setting, split, upcoming)

    def spec(self, modality: str) -> Spec:
        """How files of a modality are prepared: the encoder's way, with the settings of [media]."""
        return adjust(self.encoder.spec(modality), self.settings["media"])

    def contribution_matrix(self) -> tuple[list[str], list[list[float]]] | None:
        """Modalities seen, and the mean contribution (column) to a sample of each (row); None without any."""
        return self.method.contribution_matrix()

    def predict(
        self,
        files: Iterable[str | Path | Line],
        *,
        modality: str | None = None,
        top_k: int = 5,
        given: bool | None = None,
        classes: Sequence[str] | None = None,
        batch_size: int = 32,
        on_error: str = "error",
    ) -> list[Prediction]:
        """All of :meth:`predictions` at once."""
        return list(
            self.predictions(
                files,
                modality=modality,
                top_k=top_k,
                given=given,
                classes=classes,
                batch_size=batch_size,
                on_error=on_error,
            )
        )

    def predictions(
        self,
        files: Iterable[str | Path | Line],
        *,
        modality: str | None = None,
        top_k: int = 5,
        given: bool | None = None,
        classes: Sequence[str] | None = None,
        batch_size: int = 32,
        on_error: str = "error",
    ) -> Iterator[Prediction]:
        """What files of any modality are taken for, per instance and in their order; memory stays flat however many
        there are.

        Args:
            files: paths, and ``Line`` for a text that is no file.
            modality: how all of them are to be decoded; None: found from each file's content.
            top_k: classes returned for each.
            given: True lets the modality choose prompts and gates; default: only where ``modality`` is told.
            classes: texts that compete in place of the classes learned, whether learned or not. Samples are embedded
                as ever, with the prompts and the re-alignment of what was learned; the texts by the text encoder.
            batch_size: of decoding and of the trunk.
            on_error: ``error`` raises the first broken file's MediaError; ``report`` gives it a Prediction with
                ``error`` set, and goes on.

        Raises:
            RunError: nothing has been learned.
            ConfigError: a value out of range, or ``classes`` with a method that does not score texts.
        """
        if on_error not in ("error", "report"):
            raise ConfigError(f"on_error = {on_error!r}: use error or report")
        found = Predictor(self, modality, top_k, given, classes, batch_size).run(files)
        return found if on_error == "report" else sound(found)

    # ---- disk -----------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write everything learned: model.safetensors, state.json and manifest.json with their checksums.

        Raises:
            RunError: the folder holds other things than a saved learner, or can't be written.
        """
        checkpoint.write(Path(folder), *self.contents())

    def contents(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What :meth:`save` writes: tensors and JSON values."""
        tensors, values = self.method.state()
        tensors = {f"method/{k}": v for k, v in tensors.items()} | {"classes": self.classes.embedding} | generators()
        return tensors, {
            "encoder": self.encoder.name,
            "fingerprint": self.encoder.fingerprint,
            **self.settings,
            "tasks": self.tasks,
            "keys": [list(k) for k in self.classes.keys],
            "texts": self.classes.texts,
            "state": values,
        }

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        encoder: str | Encoder | None = None,
        device: str = "auto",
        cache_dir: str | Path | None = None,
        workers: int = 2,
        progress: Any = None,
        cache_gb: float = CACHE_GB,
        precision: str | None = None,
    ) -> Learner:
        """Inverse of :meth:`save`; also takes a run folder of ``mmcl-fast train`` (its newest checkpoint).
        ``precision``: None for the one it was learned with.

        Raises:
            RunError: a missing or broken file, or an encoder with other weights than the learner's.
        """
        folder = Path(folder)
        if (folder / "checkpoints").is_dir():
            newest = checkpoint.latest(folder)
            if newest is None:
                raise RunError(f"{folder}: no finished task in it; run mmcl-fast train with --resume")
            folder = newest
        tensors, values = checkpoint.read(folder)
        self = cls(
            encoder or values["encoder"],
            values["method"],
            options=values["options"],
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
        return self

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any], where: Path) -> None:
        """Take over a checkpoint's state; ``where`` begins the error's message.

        Raises:
            RunError: it is not whole, or not of this method and encoder.
        """
        try:
            kept = self._restore(tensors, values)
            state = self.method.state()
            whole = (
                state[0].keys() == kept[0].keys()
                and state[1] == kept[1]
                and len(self.classes.keys) == len(self.classes.texts)
                and self.classes.embedding.shape == (len(self.classes), self.encoder.dim)
                and all(t.keys() == {"name", "modality", "classes", "class_ids"} for t in self.tasks)
            )
        except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as fault:
            raise RunError(
                f"{where}: does not fit method {self.method.name} ({type(fault).__name__}: {fault}); use an "
                "older checkpoint"
            ) from None
        if not whole:
            raise RunError(f"{where}: does not fit method {self.method.name}; use an older checkpoint")

    def _restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        device = self.encoder.device
        own = {
            k.removeprefix("method/"): v.to(device) if v.dtype != torch.float64 else v
            for k, v in tensors.items()
            if k.startswith("method/")
        }
        state = self.method.current(own, values["state"])
        self.method.load_state(*state)
        keys, self.tasks = checkpoint.class_names(values["keys"], values["tasks"])
        self.classes = Classes(keys, list(values["texts"]), tensors["classes"].to(device))
        return state

    def describe(self) -> dict[str, Any]:
        """Method and all of its options, for the record."""
        return {
            "method": self.method.name,
            "options": dataclasses.asdict(self.method.options),
            "encoder": self.encoder.name,
            "seed": self.seed,
        }
