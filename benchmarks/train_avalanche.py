"""The plain loop's model and method under Avalanche's training and evaluation loops (Lomonaco et al. 2021).

Avalanche has no such method. Its SupervisedTemplate runs the steps and the evaluation; a plugin does what
``plain_loop`` does before and after a task. ``avalanche-lib`` is not a dependency: install it to run this row.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.plain_loop import PHASES, PlainComm, schedule
from benchmarks.rivals import CannotRun
from mmcl_fast.encoders import Encoder
from mmcl_fast.learning.metrics import last
from mmcl_fast.methods.comm.method import CommOptions
from mmcl_fast.streams import Stream


def _import_avalanche() -> tuple[Any, ...]:
    """Return the parts of Avalanche that :func:`run` uses; raise CannotRun where it does not import."""
    try:
        from avalanche.benchmarks import benchmark_from_datasets
        from avalanche.benchmarks.utils import AvalancheDataset
        from avalanche.core import SupervisedPlugin
        from avalanche.evaluation.metrics import accuracy_metrics
        from avalanche.training.plugins import EvaluationPlugin
        from avalanche.training.templates import SupervisedTemplate
    except (ImportError, OSError, RuntimeError, AttributeError) as error:  # a broken torchvision raises the last two
        raise CannotRun(f"avalanche does not import: {str(error).splitlines()[0]}") from error
    return (
        benchmark_from_datasets,
        AvalancheDataset,
        SupervisedPlugin,
        accuracy_metrics,
        EvaluationPlugin,
        SupervisedTemplate,
    )


class Model(nn.Module):
    """The encoder under the prompts; its only parameter is the prompt of the task under way."""

    def __init__(self, plain: PlainComm):
        super().__init__()
        self.plain, self.modality = plain, "image"
        shape = plain.encoder.num_prompted_blocks, 2, plain.options.prompt_length, plain.encoder.prefix_width("image")
        self.prompt = nn.Parameter(torch.zeros(shape, device=plain.encoder.device))

    def forward(self, x: Tensor) -> Tensor:
        return self.plain.forward(x, self.modality)[0] if self.training else self.plain.scores(x, self.modality)


def run(
    encoder: Encoder, stream: Stream, options: CommOptions, *, seed: int, workers: int = os.cpu_count() or 1
) -> dict:
    """Learn and evaluate a stream; see ``plain_loop.run`` for arguments and result.

    Raises:
        CannotRun: Avalanche does not import, or the stream has text.
    """
    build, dataset, base, accuracies, evaluation, template = _import_avalanche()
    epochs: list[float] = []  # seconds
    later: list[float] = []
    if "text" in stream.modalities:
        raise CannotRun("avalanche's loop takes tensors only, no text")
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    plain = PlainComm(encoder, options, seed=seed, workers=workers)
    model = Model(plain)

    class Method(base):  # type: ignore[valid-type, misc]  # a base class of a package that need not be installed
        """The plugin that Avalanche calls around each task."""

        supports_distributed = False

        def before_training_exp(self, strategy: Any, **_: Any) -> None:
            model.prompt.data = plain.prompt.to(encoder.device)
            plain.prompt = model.prompt
            strategy.optimizer.state.clear()
            for group in strategy.optimizer.param_groups:
                group["lr"] = options.lr
                group.pop("initial_lr", None)
            self.rate = schedule(strategy.optimizer, len(strategy.dataloader) * options.epochs)

        def after_training_iteration(self, strategy: Any, **_: Any) -> None:
            self.rate.step()

        def before_training_epoch(self, strategy: Any, **_: Any) -> None:
            self.begun = time.perf_counter()

        def after_training_epoch(self, strategy: Any, **_: Any) -> None:
            epochs.append(time.perf_counter() - self.begun)

        def before_eval_exp(self, strategy: Any, **_: Any) -> None:
            model.modality = stream.tasks[strategy.experience.current_experience].modality

    class Strategy(template):  # type: ignore[valid-type, misc]
        def criterion(self) -> Tensor:
            if not self.is_training:
                return torch.zeros(1, device=self.device)
            return plain.loss(self.mb_output, self.mb_y, self.mbatch[2])

    strategy = Strategy(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), options.lr),
        train_mb_size=options.batch_size,
        train_epochs=options.epochs,
        eval_mb_size=options.batch_size,
        device=encoder.device,
        plugins=[Method()],
        evaluator=evaluation(accuracies(experience=True), loggers=[]),
    )
    R: list[list[float | None]] = [[None] * len(stream)]
    tests: list[Any] = []
    trained, evaluated, spent = 0, 0, 0.0
    plain.comm.seconds = dict.fromkeys(PHASES, 0.0)
    started = time.perf_counter()
    for task in stream:
        plain.begin(task)
        model.modality = task.modality
        tests.append(dataset([plain.media(task, "test")]))
        made = build(train=[dataset([plain.sequential.dataset])], test=tests)
        with plain.comm.phase("prompts"):
            strategy.train(
                made.streams["train"][0], eval_streams=[], num_workers=workers, persistent_workers=workers > 0
            )
        later += epochs[1:]
        epochs.clear()
        plain.prompt = model.prompt.detach().clone()
        plain.end()
        trained += len(task.train)
        before = time.perf_counter()
        found = strategy.eval(made.streams["test"], num_workers=workers)
        R.append(
            [
                100 * found[f"Top1_Acc_Exp/eval_phase/test_stream/Exp{i:03d}"] if i <= task.index else None
                for i in range(len(stream))
            ]
        )
        evaluated += sum(len(known.test) for known in stream.seen)
        spent += time.perf_counter() - before
    total = time.perf_counter() - started
    return {
        "seconds": {**plain.comm.seconds, "evaluation": spent},
        "total": total,
        "R": R,
        "last": last(R),
        "later epochs": sum(later),
        "trained": trained,
        "evaluated": evaluated,
    }
