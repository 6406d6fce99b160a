"""ncm, slda, klda and fecam from end to end on the toy stream. Each method's equations have their own test file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.learning import Learner
from mmcl_fast.methods import Classes, TaskData
from mmcl_fast.methods.base import Method
from mmcl_fast.streams.sample import Task
from tests.methods import end_to_end
from tests.methods.baselines.closed_form import build
from tests.toy import ToyEncoder

ADAPTED: dict[str, Any] = {"adaptation": "scale_shift", "epochs": 4, "batch_size": 8}
SMALL: dict[str, dict[str, Any]] = {"klda": {"random_features": 200}}
OPTIONS: dict[str, dict[str, Any]] = {**SMALL, "slda": ADAPTED, "ncm": {"reading_prompts": 2}}
METHODS = ("ncm", "slda", "klda", "fecam")


@pytest.fixture(scope="module", params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def learned(name: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Learner, list[Task]]:
    return end_to_end.learned(tmp_path_factory.mktemp(name), name, OPTIONS.get(name, {}))


def test_it_learns(learned: tuple[Learner, list[Task]]) -> None:
    for setting in ("agnostic", "given"):
        end_to_end.check_learning(learned[0], learned[1], last=50, setting=setting)


def test_predictions_are_per_instance(learned: tuple[Learner, list[Task]]) -> None:
    learner, tasks = learned
    for data in tasks[-3:]:
        tokens = learner.tokens(data.test, "test")
        for given in (False, True):
            together = learner.method.scores(tokens, data.modality, learner.classes, given=given)
            rows = [tokens[torch.tensor([i])] for i in range(len(tokens))]
            alone = torch.cat([learner.method.scores(x, data.modality, learner.classes, given=given) for x in rows])
            # Log-densities reach 10,000 here, so the rounding of float32 is relative to the largest.
            torch.testing.assert_close(alone, together, rtol=0, atol=1e-6 * float(together.abs().max()))


def test_the_state_comes_back(learned: tuple[Learner, list[Task]], tmp_path: Path) -> None:
    end_to_end.check_state(learned[0], learned[1], tmp_path)  # learns on: last


def test_a_run_stopped_inside_an_adaptation_resumes_to_the_same_bits(tmp_path: Path) -> None:
    options = {**ADAPTED, "epochs": 2, "random_features": 50}
    assert end_to_end.check_resume(tmp_path, "klda", options, (3, 4)) == {"prompts"}


def task(count: int, classes: list[int], index: int = 0) -> TaskData:
    generator = torch.Generator().manual_seed(index)
    labels = torch.tensor(classes).repeat_interleave(count)
    centres = torch.randn(9, 1, 16, generator=torch.Generator().manual_seed(9))[labels]
    tokens = centres + 0.1 * torch.randn(len(labels), 4, 16, generator=generator)
    return TaskData(index, "image", Tokens(tokens, torch.nn.functional.pad(tokens.mean(1), (0, 32))), labels, classes)


def known(count: int) -> Classes:
    names = [f"class {c}" for c in range(count)]
    return Classes([("image", n) for n in names], names, ToyEncoder().text(names))


@pytest.mark.parametrize("samples", [1, 2, 6])
def test_classes_without_samples_are_never_predicted_and_few_samples_suffice(name: str, samples: int) -> None:
    method: Method = build(name, **SMALL.get(name, {}))
    first, again = task(samples, [0, 2]), task(samples, [2, 3], index=1)
    zero_shot = method.scores(first.tokens, "image", known(5), given=False)
    encoder = method.encoder
    z = torch.nn.functional.normalize(encoder.head(first.tokens, None, "image"), dim=1)
    torch.testing.assert_close(zero_shot, encoder.logit_scale * z @ known(5).embedding.T)
    method.learn(first, known(3))
    assert method.scores(first.tokens, "image", known(5), given=False)[:, [1, 3, 4]].eq(float("-inf")).all()
    method.learn(again, known(5))
    for data in (first, again):
        scores = method.scores(data.tokens, "image", known(5), given=True)
        assert scores[:, [1, 4]].eq(float("-inf")).all() and scores[:, [0, 2, 3]].isfinite().all()
        assert torch.equal(scores.argmax(1), data.labels)


def test_it_is_the_same_with_and_without_the_modality_unless_it_has_prompts(name: str) -> None:
    for options, differs, under in (
        ({}, False, "of the encoder, without prompts"),
        ({"reading_prompts": 1}, True, "of the encoder, without prompts"),
        ({"adaptation": "prefix"}, True, "under the modality's prompt"),
    ):
        method = build(name, epochs=1, **options, **SMALL.get(name, {}))
        assert not method.uses_given_modality
        method.learn(task(3, [0, 1]), known(2))
        assert method.uses_given_modality is differs
        (described,) = method.embeddings(task(3, [0, 1]).tokens, "image")
        assert described == under
