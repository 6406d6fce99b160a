"""Custom methods that were written for earlier versions: attributes by their former names."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from mmcl_fast.learning import Learner
from mmcl_fast.methods import METHODS, Method, register
from mmcl_fast.methods.baselines.zero_shot import ZeroShot, ZeroShotOptions
from mmcl_fast.option_fields import FormerNameWarning
from mmcl_fast.streams import Stream
from tests.toy import ToyEncoder, write_folder


def test_former_attributes_work_with_a_warning_each() -> None:
    with pytest.warns(FormerNameWarning) as seen:

        class Custom(ZeroShot):
            shares = False
            cumulative = True
            reads_texts = False

            @property
            def routes(self) -> bool:
                return True

            def current(self, tensors: dict, values: dict) -> tuple[dict, dict]:
                return tensors, {**values, "migrated": True}

    assert sorted(str(warning.message) for warning in seen) == [
        f"Custom.{former} is called {name} now; the former name still works"
        for former, name in (
            ("cumulative", "needs_all_tasks"),
            ("current", "migrate_state"),
            ("reads_texts", "scores_texts"),
            ("routes", "uses_given_modality"),
            ("shares", "supports_distributed"),
        )
    ]
    method = Custom(ToyEncoder(), ZeroShotOptions())
    assert (Custom.supports_distributed, Custom.needs_all_tasks, Custom.scores_texts) == (False, True, False)
    assert method.uses_given_modality and method.migrate_state({}, {}) == ({}, {"migrated": True})
    assert vars(Custom)["supports_distributed"] is False  # the learner asks the class itself, not its bases


def test_attributes_of_other_kinds_are_a_methods_own_affair() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        class Custom(ZeroShot):
            current = 3

            def shares(self) -> list[float]:
                return [1.0]

    assert Custom.supports_distributed is True
    assert Custom(ToyEncoder(), ZeroShotOptions()).migrate_state({}, {}) == ({}, {})


def test_the_name_of_today_counts_where_both_are_given() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        class Custom(ZeroShot):
            reads_texts = True
            scores_texts = False

    assert Custom.scores_texts is False


def test_a_method_of_an_earlier_version_learns_and_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As docs/howto/own-method.md had it: a dataclass of options, ``shares``, ``reuse`` and ``journal``."""

    @dataclass(frozen=True)
    class Options:
        penalty: float = 0.0

    with pytest.warns(FormerNameWarning):

        class Earlier(Method):
            name = "earlier"
            reads_texts = True

            def learn(self, data, classes) -> None:
                assert self.journal is self.checkpoints

            def scores(self, tokens, modality, classes, *, given) -> torch.Tensor:
                return self.reuse.cosine_scores(self.encoder, tokens, modality, classes.embedding)

    Earlier.Options = Options
    monkeypatch.setitem(METHODS, "earlier", Earlier)
    register(Earlier)
    learner = Learner(ToyEncoder(), "earlier", options={"penalty": 0.0}, device="cpu")
    stream = Stream.from_folder(write_folder(tmp_path / "data", classes=2, modalities=("image",)))
    for task in stream:
        learner.learn(task)
    assert learner.settings["options"] == {"penalty": 0.0}
    assert learner.evaluate(stream.tasks).correct
