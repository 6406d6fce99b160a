"""Reading prompts: who gives them, that they never change, and what features and statistics hold of them."""

import pytest
import torch
import torch.nn.functional as F

from mmcl_fast.methods import make_options
from mmcl_fast.methods.comm.memory import FeatureMemory
from mmcl_fast.methods.comm.method import Comm
from mmcl_fast.methods.shared import reading_prompts as module
from mmcl_fast.methods.shared.embedding import embed_all, unit_query
from tests.methods.comm.test_memory import randn
from tests.methods.comm.test_method import QUICK, setting, task  # noqa: F401  (a fixture)

COUNT = 3


def comm(encoder, **options):
    return Comm(encoder, make_options("comm", {**QUICK, "prompts": True, "reading_prompts": COUNT, **options}))


def tail(method, data):
    """The features of a task's samples after z and q."""
    u = method._features(data.tokens, data.modality, unit_query(data.tokens))
    return u[:, method.encoder.dim + method.encoder.query_dim :]


def learn(method, setting, count=3):  # noqa: F811
    _, classes, tasks = setting
    for data in tasks[:count]:
        method.learn(data, classes)
    return method


def test_the_prompts_of_earlier_modalities_come_first_and_random_ones_fill_up(setting):  # noqa: F811
    method = learn(comm(setting[0]), setting, 1)
    image = method.bank.prompts["image"].clone()
    assert method.reading.modalities == ["image"]
    method.learn(setting[2][1], setting[1])
    first, *others = [bank.prompts["audio"] for bank in method.reading.banks]
    assert torch.equal(first, image)  # both modalities have the same grid
    for k, prompt in enumerate(others):
        assert not torch.equal(prompt, image) and not torch.equal(prompt, method.bank.prompts["audio"])
        assert not any(torch.equal(prompt, p) for p in others[:k])
    assert len({bank.prompts["image"].sum().item() for bank in method.reading.banks}) == COUNT


def test_without_blending_nothing_is_taken_from_others(setting):  # noqa: F811
    method = learn(comm(setting[0], blending=False), setting, 1)
    image = method.bank.prompts["image"].clone()
    method.learn(setting[2][1], setting[1])
    assert not any(torch.equal(bank.prompts["audio"], image) for bank in method.reading.banks)


def test_features_hold_the_unit_embedding_under_each_reading_prompt(setting):  # noqa: F811
    encoder, _, tasks = setting
    method = learn(comm(encoder), setting)
    found = tail(method, tasks[0])
    expected = [
        F.normalize(embed_all(bank.head, tasks[0].tokens, "image", [bank.prompts["image"]]), dim=1)
        for bank in method.reading.banks
    ]
    torch.testing.assert_close(found, torch.cat(expected, 1))


def test_later_tasks_change_no_feature_under_a_reading_prompt(setting):  # noqa: F811
    method = learn(comm(setting[0]), setting, 1)
    before, kept = tail(method, setting[2][0]), method.memory.means("image")[:, -COUNT * setting[0].dim :].clone()
    for data in setting[2][1:]:
        method.learn(data, setting[1])
    assert torch.equal(tail(method, setting[2][0]), before)
    assert torch.equal(method.memory.means("image")[:2, -COUNT * setting[0].dim :], kept)
    means = torch.stack([before[setting[2][0].labels == c].mean(0) for c in (0, 1)])
    torch.testing.assert_close(kept, means)


def test_the_statistics_of_a_later_task_are_those_of_its_features(setting):  # noqa: F811
    """After the first task of a modality only z is computed anew."""
    method = learn(comm(setting[0]), setting)
    data = setting[2][2]
    u = method._features(data.tokens, "image", unit_query(data.tokens))
    means = torch.stack([u[data.labels == c].mean(0) for c in (2, 3)])
    torch.testing.assert_close(method.memory.means("image")[2:], means)


def test_features_have_no_room_for_reading_prompts_before_there_are_some(setting):  # noqa: F811
    encoder, classes, tasks = setting
    bare = encoder.dim + encoder.query_dim
    method = comm(encoder, prompts="auto")
    method._learn_prompt = lambda *args: None  # prompts do not pay
    method.learn(tasks[0], classes)
    assert len(method.memory.pooled["image"].mean) == bare and not method.reading.modalities
    del method._learn_prompt
    method.options.__dict__["prompts"] = True
    method.learn(tasks[1], classes)
    assert method.reading.modalities == ["audio"]
    assert not method.memory.means("image")[:, bare:].any() and method.memory.means("audio")[:, bare:].any()
    routed = method._routing(unit_query(tasks[0].tokens)).argmax(1) == 0
    assert routed.any() and not tail(method, tasks[0])[routed].any()  # a sample like images is read under none
    method.learn(tasks[2], classes)
    assert method.reading.modalities == ["audio"]  # a modality gets them on its first task or never
    assert not method.memory.means("image")[:, bare:].any()


@pytest.mark.parametrize(
    "modality, options",
    [
        ("image", {"reading_prompts": 0}),
        ("image", {"prompts": False}),
        ("image", {"token_scale_shift": False}),
        ("text", {}),
    ],
)
def test_where_there_are_none_features_are_z_and_q(setting, modality, options):  # noqa: F811
    encoder, classes, _ = setting
    method = comm(encoder, **options)
    method.learn(task(encoder, 0, modality, [0, 1], 0), classes)
    assert not method.reading.modalities
    assert len(method.memory.pooled[modality].mean) == encoder.dim + encoder.query_dim


def test_a_state_holds_them_and_an_older_state_goes_on_without(setting):  # noqa: F811
    encoder, classes, tasks = setting
    method = learn(comm(encoder), setting, 2)
    tensors, values = method.state()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    again = comm(encoder)
    again.load_state(*again.migrate_state(tensors, values))
    for m in (method, again):
        m.learn(tasks[2], classes)
    for data in tasks:
        scores = [m.scores(data.tokens, data.modality, classes, given=False) for m in (method, again)]
        assert torch.equal(*scores)
    with pytest.raises(ValueError, match="(audio|image): 3 reading prompts, not 2"):
        comm(encoder, reading_prompts=2).load_state(tensors, values)

    older = learn(comm(encoder, reading_prompts=0), setting, 1)
    tensors, values = older.state()
    del values["reading_widths"]
    today = comm(encoder)
    today.load_state(*today.migrate_state(tensors, values))
    assert not today.reading.modalities
    today.learn(tasks[1], classes)
    today.learn(tasks[2], classes)
    assert today.reading.modalities == ["audio"]


def test_a_random_pattern_is_smooth_and_comes_from_its_generator():
    def pattern(seed, shape):
        return module.random_pattern(shape, torch.Generator().manual_seed(seed))

    found = pattern(0, (7, 7))
    assert (
        found.shape == (7, 7) and torch.equal(found, pattern(0, (7, 7))) and not torch.equal(found, pattern(1, (7, 7)))
    )
    coarse = module.PATTERN_SIZE * torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found[::6, ::6], coarse[::2, ::2])  # the corners are the coarse grid's
    steps = (found[1:] - found[:-1]).abs().mean() / found.std()
    iid = randn(7, 7)
    assert steps < 0.6 * (iid[1:] - iid[:-1]).abs().mean() / iid.std()
    assert pattern(0, (8,)).shape == (8,)


def test_a_wider_memory_keeps_its_statistics_and_adds_zeros():
    u, labels = randn(20, 6), torch.arange(2).repeat_interleave(10)
    memory = FeatureMemory(4, 8, "auto")
    memory.add("image", [0, 1], u, labels)
    before = {name: t.clone() for name, t in memory.state()[0].items()}
    memory.widen(9)
    memory.widen(5)  # never narrower
    for name, tensor in memory.state()[0].items():
        assert torch.equal(tensor[..., :6], before[name]) and tensor.shape[-1] == 9 and not tensor[..., 6:].any()
    memory.add("image", [2], randn(10, 9, seed=1), torch.full((10,), 2))
    assert memory.means("image").shape == (3, 9)
