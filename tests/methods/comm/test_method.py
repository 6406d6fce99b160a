from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods import Classes, TaskData, make_options
from mmcl_fast.methods.comm import method as comm
from mmcl_fast.methods.comm import prompt_learning
from mmcl_fast.methods.comm.memory import FeatureMemory
from mmcl_fast.methods.comm.method import Comm
from mmcl_fast.methods.comm.prompt_learning import PromptLearner
from mmcl_fast.methods.comm.realignment import Realigner
from mmcl_fast.methods.comm.relevance import Relevance
from mmcl_fast.methods.comm.token_means import TokenMeans
from mmcl_fast.methods.shared import prompt_training
from tests.toy import ToyEncoder

QUICK = {
    "prompt_updates": True,
    "epochs": 1,
    "least_steps": 4,
    "realignment": "trained",
    "steps": 5,
    "sampled_features": 32,
    "batch_size": 8,
}


def task(encoder, index, modality, classes, seed, per_class=8):
    """Random tokens around class centres."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.tensor(classes).repeat_interleave(per_class)
    centre = torch.randn(len(classes), 1, 16, generator=g).repeat_interleave(per_class, 0)
    tokens = centre + 1.5 * torch.randn(len(labels), 4, 16, generator=g)
    query = F.pad((tokens.mean(1) @ encoder.query["vision"]).relu(), (0, 24))
    return TaskData(index, modality, Tokens(tokens, query), labels, classes)


@pytest.fixture
def setting():
    encoder = ToyEncoder()
    keys = [(m, str(i)) for m, n in (("image", 4), ("audio", 2)) for i in range(n)]
    order = [("image", [0, 1]), ("audio", [4, 5]), ("image", [2, 3])]
    tasks = [task(encoder, i, m, c, i) for i, (m, c) in enumerate(order)]
    return encoder, Classes(keys, [str(k) for k in keys], encoder.text([str(k) for k in keys])), tasks


def run(setting, **options):
    encoder, classes, tasks = setting
    method = Comm(encoder, make_options("comm", {**QUICK, **options}))
    for data in tasks:
        method.learn(data, classes)
    return method


@pytest.mark.parametrize("updates", [True, False])
def test_only_the_tasks_own_modality_moves_and_without_updates_none(setting, updates):
    encoder, classes, tasks = setting
    method = Comm(encoder, make_options("comm", QUICK | {"prompt_updates": updates}))
    method.learn(tasks[0], classes)
    method.learn(tasks[1], classes)
    audio = method.bank.prompts["audio"].clone()
    image = method.bank.prompts["image"].clone()
    method.learn(tasks[2], classes)
    assert torch.equal(audio, method.bank.prompts["audio"])
    assert torch.equal(image, method.bank.prompts["image"]) != updates


@pytest.mark.parametrize(
    "modality, still, moves",
    [
        ("image", {"lr": 0.0}, (False, True)),
        ("image", {"scale_shift_lr": 0.0}, (True, False)),
        ("text", {"text_lr": 0.0}, (False,)),
        ("text", {"lr": 0.0, "scale_shift_lr": 0.0}, (True,)),
    ],
)
def test_vision_prefixes_text_prefixes_and_tables_have_rates_of_their_own(setting, modality, still, moves):
    encoder, classes, _ = setting
    method = Comm(encoder, make_options("comm", {**QUICK, **still}))
    method.learn(task(encoder, 0, modality, [0, 1], 0), classes)
    still_standing = {"lr": 0.0, "text_lr": 0.0, "scale_shift_lr": 0.0}
    start = Comm(encoder, make_options("comm", {**QUICK, **still_standing}))
    start.learn(task(encoder, 0, modality, [0, 1], 0), classes)
    parts = [m.bank.head.split(m.bank.prompts[modality], modality) for m in (start, method)]
    # In units and back is rounded.
    assert tuple(not torch.allclose(*pair, rtol=1e-6, atol=0) for pair in zip(*parts) if len(pair[0])) == moves


def test_self_regularisation_keeps_embeddings_nearer(setting):
    moved = {}
    for beta in (0.0, 100.0):
        encoder, classes, tasks = setting
        options = {"epochs": 8, "self_regularisation": beta, "aggregation": False, "channel_dropout": 0.0}
        method = Comm(encoder, make_options("comm", {**QUICK, **options}))
        method.learn(tasks[0], classes)
        before = method.embed(tasks[2].tokens, "image", given=True)
        prompt = method.bank.prompts["image"]
        method.learn(tasks[2], classes)
        z = [
            F.normalize(method.bank.head.head(tasks[2].tokens, p, "image"), dim=1)
            for p in (prompt, method.bank.prompts["image"])
        ]
        moved[beta] = float((1 - (z[0] * z[1]).sum(1)).mean())
        assert before.shape == (16, encoder.dim)
    assert moved[100.0] < moved[0.0] / 2


@pytest.mark.parametrize(
    "switch",
    [
        {"prompts": False},
        {"prompt_updates": False},
        {"penalty": 3.0},
        {"aggregation": False},
        {"blending": False},
        {"relevance": "mlp"},
        {"realignment": "off"},
        {"start": "zero"},
        {"reads_query": False},
        {"dual_targets": False},
        {"drift": False},
        {"token_means": False},
        {"class_targets": "texts"},
        {"class_targets": "learned"},
        {"reading_prompts": 0},
        {"token_scale_shift": False},
        {"scale_shift_rank": 0},
        {"self_regularisation": 0.0},
        {"prompt_prior": 0.0},
    ],
)
def test_every_switch_changes_what_is_learned_and_still_works(setting, switch):
    _encoder, classes, tasks = setting
    plain, other = run(setting), run(setting, **switch)
    e = [m.scores(tasks[0].tokens, "image", classes, given=False) for m in (plain, other)]
    assert torch.isfinite(e[1]).all()
    assert not torch.allclose(e[0], e[1], atol=1e-6)


@pytest.mark.parametrize("switch", [{"realignment": "closed"}, {"weighted": False}, {"realignment_lr": 0.1}])
def test_switches_of_training_change_it_where_held_out_samples_take_it(setting, switch):
    """From zero, as training from the closed form may be left out."""
    _encoder, classes, tasks = setting
    from_zero = {"start": "zero", "realignment": "trained", "steps": 40, "realignment_lr": 0.02}
    plain, other = run(setting, **from_zero), run(setting, **{**from_zero, **switch})
    e = [m.scores(tasks[0].tokens, "image", classes, given=False) for m in (plain, other)]
    assert not torch.allclose(e[0], e[1], atol=1e-6)


def test_contribution_rows_sum_to_one_and_favour_the_own_modality(setting):
    names, matrix = run(setting).contribution_matrix()
    assert names == ["image", "audio"]
    for i, row in enumerate(matrix):
        assert sum(row) == pytest.approx(1, abs=1e-4) and row[i] == max(row)


def test_every_step_of_a_task_is_under_a_phase(setting, monkeypatch):
    """Time outside all phases would not show in a task's seconds."""
    encoder, classes, tasks = setting
    method = Comm(encoder, make_options("comm", QUICK))
    inside, real, steps = [], Comm.phase, {}

    @contextmanager
    def phase(self, name, total=None):
        inside.append(name)
        with real(self, name, total) as shown:
            yield shown
        inside.pop()

    def watch(owner, name):
        step = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *a, **k: steps.setdefault(name, set()).add(tuple(inside)) or step(*a, **k)
        )

    monkeypatch.setattr(Comm, "phase", phase)
    for owner, name in (
        (Comm, "_features"),
        (Comm, "_update_mean_contributions"),
        (PromptLearner, "_borrow"),
        (Relevance, "learn"),
        (FeatureMemory, "move_means"),
        (FeatureMemory, "add"),
        (TokenMeans, "add"),
        (Realigner, "solve"),
        (Realigner, "train"),
        (prompt_learning, "train_groups"),
        (prompt_learning, "held_out_error"),
        (prompt_learning, "embed_all"),
        (prompt_training, "prefix_units"),
        (comm, "unit_query"),
    ):
        watch(owner, name)
    for data in [*tasks, task(encoder, 3, "depth", [0, 1], 3, per_class=40)]:
        method.learn(data, classes)
    assert steps == {
        "_features": {("features",)},
        "_update_mean_contributions": {("statistics",)},
        "_borrow": {("borrowing",)},
        "learn": {("relevance",)},
        "move_means": {("statistics",)},
        "add": {("statistics",)},
        "solve": {("re-alignment",)},
        "train": {("re-alignment",)},
        "train_groups": {("prompts",), ("test of prompts",)},
        "held_out_error": {("test of prompts",)},
        "embed_all": {("borrowing",), ("prompts",), ("test of prompts",)},
        "prefix_units": {("borrowing",), ("prompts",), ("test of prompts",), ("features",)},
        "unit_query": {("relevance",)},
    }
    assert method.seconds.keys() == {inside[0] for found in steps.values() for inside in found}


def test_before_any_task_it_is_zero_shot(setting):
    encoder, classes, tasks = setting
    method = Comm(encoder, make_options("comm", {}))
    z = F.normalize(encoder.head(tasks[0].tokens, None, "image"), dim=1)
    torch.testing.assert_close(
        method.scores(tasks[0].tokens, "image", classes, given=False), encoder.logit_scale * z @ classes.embedding.T
    )
