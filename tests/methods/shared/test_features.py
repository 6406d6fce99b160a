"""The features of closed-form classifiers: their parts, and the prompt that each modality learns on its first task."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods import Classes, TaskData
from mmcl_fast.methods.base import Method
from mmcl_fast.methods.shared.embedding import unit_query
from mmcl_fast.methods.shared.features import FeatureOptions, FeatureReader
from tests.toy import ToyEncoder

TRAINED = {"epochs": 5, "batch_size": 8, "lr": 0.05, "scale_shift_lr": 0.05, "classifier_lr": 0.05}
AXIS = {"image": 0, "depth": 5, "text": 30}  # of the queries of a modality


class Reading(Method):
    name = "reading"
    Options = FeatureOptions

    def __init__(self, **options: Any):
        super().__init__(ToyEncoder(), FeatureOptions(**options), seed=1)
        self.reader = FeatureReader(self)

    def learn(self, data: TaskData, classes: Classes) -> None:
        self.reader.learn(data)

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        return self.reader(tokens, modality, given=given)


def task(modality: str, index: int = 0, count: int = 24) -> TaskData:
    """Samples whose class shows at one token alone."""
    generator = torch.Generator().manual_seed(index)
    labels = torch.arange(count) % 2
    tokens = torch.randn(count, 4, 16, generator=generator)
    tokens[:, 1] += 3 * (2 * labels.unsqueeze(1) - 1)
    query = F.one_hot(torch.tensor(AXIS[modality]), 48) + 0.01 * torch.rand(count, 48, generator=generator)
    return TaskData(index, modality, Tokens(tokens, query), labels, [0, 1])


def z_of(method: Reading, data: TaskData, prompt: Tensor | None) -> Tensor:
    return F.normalize(method.reader.bank.head.head(data.tokens, prompt, data.modality), dim=1)


@pytest.mark.parametrize(("features", "width"), [("q", 48), ("z", 24), ("zq", 72)])
def test_without_adaptation_features_are_the_encoders_and_nothing_is_kept(features: Any, width: int) -> None:
    method, data = Reading(features=features), task("image")
    method.reader.learn(data)
    assert method.reader.width == width and method.reader.state() == ({}, {}) and not method.seconds
    parts = {"z": F.normalize(method.encoder.head(data.tokens, None, "image"), dim=1), "q": unit_query(data.tokens)}
    expected = torch.cat([parts[name] for name in features], dim=1)
    for given in (False, True):
        torch.testing.assert_close(method.reader(data.tokens, "image", given=given), expected)
    assert not method.reader.uses_given_modality


@pytest.mark.parametrize("adaptation", ["prefix", "scale_shift"])
def test_each_modality_learns_one_prompt_on_its_first_task(adaptation: Any) -> None:
    method = Reading(adaptation=adaptation, **TRAINED)
    for index, modality in enumerate(("image", "depth", "text")):
        method.reader.learn(task(modality, index))
    prompts = {name: prompt.clone() for name, prompt in method.reader.bank.prompts.items()}
    prefix = 2 * 2 * 8 * 16
    pairs = 4 * 2 * 16 if adaptation == "scale_shift" else 0
    assert {name: len(prompt) for name, prompt in prompts.items()} == {
        "image": prefix + pairs,
        "depth": prefix + pairs,
        "text": prefix,  # a token's position says little in a text
    }
    assert all(bool(prompt[:prefix].any()) and not prompt.requires_grad for prompt in prompts.values())
    assert not pairs or all(bool(prompts[name][prefix:].any()) for name in ("image", "depth"))
    method.reader.learn(task("image", 3))
    assert all(torch.equal(method.reader.bank.prompts[name], prompts[name]) for name in prompts)


def test_scales_and_shifts_change_along_few_directions_where_a_rank_is_given() -> None:
    method = Reading(adaptation="scale_shift", scale_shift_rank=2, **TRAINED)
    method.reader.learn(task("image"))
    _, pairs = method.reader.bank.head.unpack(method.reader.bank.prompts["image"], "image", 16)
    assert pairs.shape == (4, 32) and torch.linalg.matrix_rank(pairs, rtol=1e-5) == 2


def test_adaptation_separates_the_classes_of_its_task() -> None:
    """The least-squares error of the classes on z falls, on new samples too."""

    def error(method: Reading) -> float:
        train, test = (method.reader(task("image", i).tokens, "image", given=True) for i in (0, 7))
        target = 2 * task("image").labels.float().unsqueeze(1) - 1
        lift = 0.01 * torch.eye(24)
        weight = torch.linalg.solve(train.T @ train + lift, train.T @ target)
        return float((test @ weight - target).square().mean())

    adapted = Reading(features="z", adaptation="scale_shift", **{**TRAINED, "epochs": 30})
    adapted.reader.learn(task("image"))
    assert error(adapted) < 0.5 * error(Reading(features="z"))


def test_the_recogniser_chooses_the_prompt_where_the_modality_is_not_given() -> None:
    method = Reading(adaptation="scale_shift", **TRAINED)
    image, depth = task("image"), task("depth", 1)
    for data in (image, depth):
        method.reader.learn(data)
    prompts = method.reader.bank.prompts
    mixed = TaskData(
        2,
        "image",
        Tokens(image.tokens.tokens, torch.cat([image.tokens.query[:12], depth.tokens.query[12:]])),
        image.labels,
        [0, 1],
    )
    own, others = z_of(method, mixed, prompts["image"]), z_of(method, mixed, prompts["depth"])
    assert (own - others).abs().amax(1).min() > 1e-3
    given = method.reader(mixed.tokens, "image", given=True)
    torch.testing.assert_close(given[:, :24], own)
    torch.testing.assert_close(given[:, 24:], unit_query(mixed.tokens))
    agnostic = method.reader(mixed.tokens, "image", given=False)
    torch.testing.assert_close(agnostic[:, :24], torch.cat([own[:12], others[12:]]))
    # A modality without a prompt of its own gets another one's prefix; a tower without prompts stays bare.
    never = method.reader(mixed.tokens, "audio", given=True)
    prefix = [z_of(method, mixed, prompts[name][: 2 * 2 * 8 * 16]) for name in ("image", "depth")]
    torch.testing.assert_close(never[:, :24], torch.cat([prefix[0][:12], prefix[1][12:]]))
    text = task("text")
    torch.testing.assert_close(method.reader(text.tokens, "text", given=True)[:, :24], z_of(method, text, None))


def test_the_state_comes_back() -> None:
    method = Reading(adaptation="scale_shift", **TRAINED)
    for index, modality in enumerate(("text", "image", "depth")):
        method.reader.learn(task(modality, index))
    tensors, values = method.reader.state()
    assert values == {"adaptation": {"modalities": ["text", "image", "depth"]}}
    assert all(name.startswith("adaptation/") for name in tensors)
    again = Reading(adaptation="scale_shift", **TRAINED)
    again.reader.load_state(dict(sorted(tensors.items())) | {"count": torch.zeros(3)}, values)
    for given in (False, True):
        for data in (task("image", 4), task("text", 5)):
            found = [x.reader(data.tokens, data.modality, given=given) for x in (method, again)]
            assert torch.equal(*found)


def test_without_z_among_the_features_nothing_is_learned() -> None:
    method = Reading(features="q", adaptation="prefix")
    method.reader.learn(task("image"))
    assert not method.reader.bank.prompts and method.reader.state() == ({}, {})


@pytest.mark.parametrize("adaptation", ["none", "prefix", "scale_shift"])
def test_reading_prompts_add_embeddings_that_later_tasks_do_not_change(adaptation: Any) -> None:
    method = Reading(adaptation=adaptation, reading_prompts=3, **TRAINED)
    image, depth, text = task("image"), task("depth", 1), task("text", 2)
    method.reader.learn(image)
    before = method.reader(image.tokens, "image", given=True)
    for data in (depth, text, task("image", 3)):
        method.reader.learn(data)
    assert method.reader.width == 72 + 3 * 24 and method.reader.reading.modalities == ["image", "depth"]
    assert torch.equal(method.reader(image.tokens, "image", given=True), before)
    parts = [
        F.normalize(bank.head.head(image.tokens, bank.prompts["image"], "image"), dim=1)
        for bank in method.reader.reading.banks
    ]
    torch.testing.assert_close(before[:, 72:], torch.cat(parts, dim=1))
    assert not method.reader(text.tokens, "text", given=True)[:, 72:].any()
    borrowed = method.reader.reading.banks[0].prompts["depth"]
    own = method.reader.bank.prompts.get("image")
    assert (own is not None and torch.equal(borrowed[: len(own)], own)) == (adaptation != "none")


def test_the_recogniser_chooses_among_reading_prompts_too() -> None:
    method = Reading(reading_prompts=2)
    for index, modality in enumerate(("image", "depth")):
        method.reader.learn(task(modality, index))
    pictures = task("image", 4)
    found = {m: method.reader(pictures.tokens, m, given=True)[:, 72:] for m in ("image", "depth")}
    assert not torch.allclose(found["image"], found["depth"])
    agnostic = method.reader(pictures.tokens, "depth", given=False)[:, 72:]  # with queries of images
    torch.testing.assert_close(agnostic, found["image"])


@pytest.mark.parametrize("adaptation", ["none", "prefix", "scale_shift"])
def test_the_state_with_reading_prompts_comes_back(adaptation: Any) -> None:
    method, again = (Reading(adaptation=adaptation, reading_prompts=2, **TRAINED) for _ in range(2))
    for index, modality in enumerate(("text", "image", "depth")):
        method.reader.learn(task(modality, index))
    tensors, values = method.reader.state()
    again.reader.load_state(dict(sorted(tensors.items())), values)
    for reading in (method, again):
        reading.reader.learn(task("image", 3))
    image, depth = task("image", 4), task("depth", 5)
    misread = TaskData(6, "depth", Tokens(depth.tokens.tokens, image.tokens.query), depth.labels, [0, 1])
    for data in (image, depth, task("text", 6), misread):
        assert torch.equal(*[x.reader(data.tokens, data.modality, given=False) for x in (method, again)])
