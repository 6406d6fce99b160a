"""The closed form of re-alignment orders classes as linear discriminant analysis does."""

import pytest
import torch
import torch.nn.functional as F

from mmcl_fast.methods.comm import closed_form as module
from mmcl_fast.methods.comm import memory as memories
from mmcl_fast.methods.comm.closed_form import OTHERS, closed_form, dual_basis
from mmcl_fast.methods.comm.memory import FeatureMemory
from mmcl_fast.methods.comm.moments import Moments
from mmcl_fast.methods.comm.realignment import Realigner
from tests.methods.comm.test_memory import randn

DIM, WIDE = 10, 24


def texts(classes):
    """Unit rows that resemble each other, as texts do."""
    return F.normalize(randn(1, DIM, seed=5) + 0.7 * randn(classes, DIM, seed=6), dim=1)


def samples(classes, each=40, first=0, at=0.0, noise=0.5):
    """Features around class centres and their labels, from ``first``."""
    labels = torch.arange(classes).repeat_interleave(each)
    centres = at + 0.6 * randn(classes, WIDE, seed=first + 1)
    return centres[labels] + noise * randn(len(labels), WIDE, seed=first + 2), labels + first


def memory_of(*parts, rank=WIDE):
    """The memory of (u, labels) for modalities image and audio, with exact covariances where rank is large."""
    memory = FeatureMemory(rank, rank, 0.0)
    for name, (u, labels) in zip(("image", "audio"), parts):
        memory.add(name, labels.unique().tolist(), u, labels)
    return memory


def direct(u, labels, penalty):
    """Scores of linear discriminant analysis of one modality, from the samples themselves, float64."""
    u, n, k = u.double(), len(u), int(labels.max()) + 1
    means = torch.stack([u[labels == c].mean(0) for c in range(k)])
    count = torch.bincount(labels).double()
    within = (u - means[labels]).T @ (u - means[labels])
    centre = u.mean(0)
    deviation = means - centre
    unbiased = within / (n - k)
    system = within / n + penalty * unbiased.trace() / WIDE * torch.eye(WIDE).double()
    weight = torch.linalg.solve(system, deviation.T)
    sizes = torch.stack([(u[labels == c] - means[c]).square().sum() for c in range(k)]) / (count - 1)
    sizes = (sizes / (unbiased.trace() * (n - k) / (n - 1)) * (count - 1) + 1) / count * (n - k + k) / (n - k)
    own = torch.linalg.solve(system, unbiased).trace() * sizes * (n - 1) / n / count
    return (u - centre) @ weight - 0.5 * ((deviation.T * weight).sum(0) - own)


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Factors as large as the samples allow: then the moments are the samples' own."""
    monkeypatch.setattr(memories, "POOLED_SAMPLES_PER_ROW", 1)


@pytest.mark.parametrize("penalty", [0.1, 3.0])
def test_scores_are_those_of_linear_discriminant_analysis(penalty):
    u, labels = samples(4)
    u, labels = u[:-25], labels[:-25]  # the last class has 15 samples
    down, up = closed_form(memory_of((u, labels)), texts(4), ["image"], rank=99, penalty=penalty, width=WIDE)
    v = torch.cat([u, torch.ones(len(u), 1)], 1)
    scores = (u[:, :DIM] + v @ down[0] @ up[0]) @ texts(4).T
    want = direct(u, labels, penalty)
    # the same but for a scale and a constant of all classes
    scores, want = (x.double() - x.double().mean(1, keepdim=True) for x in (scores, want))
    scale = (scores * want).sum() / want.square().sum()
    assert scale > 0
    torch.testing.assert_close(scores, want * scale, atol=0.02, rtol=0.02)
    assert (scores.argmax(1) == want.argmax(1)).float().mean() > 0.99


def test_texts_that_differ_by_little_still_tell_classes_apart():
    """Such as "a photo of a pear at the top left" and "... at the top right"."""
    u, labels = samples(4)
    alike = F.normalize(randn(1, DIM, seed=5) + 0.02 * randn(4, DIM, seed=6), dim=1)
    assert torch.linalg.eigvalsh((alike @ alike.T).double())[0] < 1e-3
    realigner = Realigner(DIM, rank=99, reads_query=True)
    realigner.solve(memory_of((u, labels)), alike, ["image"], 0.1, True)
    found = realigner(u, torch.ones(len(u), 1)) @ alike.T
    assert (found.argmax(1) == direct(u, labels, 0.1).argmax(1)).float().mean() > 0.99


def test_a_class_of_another_modality_has_a_low_score_and_gates_decide():
    parts = samples(4), samples(3, first=4, at=0.3)
    memory, realigner = memory_of(*parts), Realigner(DIM, rank=99, reads_query=True)
    realigner.solve(memory, texts(7), ["image", "audio"], "auto", True)
    u, labels = parts[1]
    v = torch.cat([u, torch.ones(len(u), 1)], 1)
    for number, foreign in ((0, range(4, 7)), (1, range(4))):
        scores = (u[:, :DIM] + v @ realigner.down[number] @ realigner.up[number]) @ texts(7).T
        torch.testing.assert_close(
            scores[:, list(foreign)], torch.full((len(u), len(foreign)), OTHERS), atol=0.2, rtol=0
        )
    right = [
        (realigner(u, gate.expand(len(u), 2)) @ texts(7).T).argmax(1) == labels
        for gate in torch.tensor([[0.0, 1], [1, 0]])
    ]
    assert right[0].float().mean() > 0.8 and not right[1].any()


def test_a_weighted_basis_favours_the_heavy_classes_where_there_are_too_many():
    given = texts(3 * DIM).double()
    weight = torch.full((3 * DIM,), 0.01, dtype=torch.float64)
    weight[:5] = 1
    scores = torch.eye(3 * DIM).double()[:5]
    errors = [
        (scores @ dual_basis(given, w) @ given.T - scores)[:, :5].abs().max() for w in (weight, weight.new_ones(30))
    ]
    assert errors[0] < 0.3 * errors[1]


def test_the_spectrum_gives_the_rank():
    memory = memory_of(samples(3))
    down, up = closed_form(memory, texts(3), ["image"], rank=99, penalty=1.0, width=WIDE)
    assert down.shape == (1, WIDE + 1, 3) and up.shape == (1, 3, DIM)
    assert closed_form(memory, texts(3), ["image"], rank=2, penalty=1.0, width=WIDE)[1].shape == (1, 2, DIM)


def test_one_class_and_single_samples_have_a_solution():
    for part in (samples(1), samples(3, each=1), samples(1, each=1)):
        memory = memory_of(part)
        classes = len(memory.labels("image"))
        realigner = Realigner(DIM, rank=99, reads_query=True)
        realigner.solve(memory, texts(classes), ["image"], "auto", True)
        e = realigner(memory.means("image"), torch.ones(classes, 1)) @ texts(classes).T
        assert e.isfinite().all() and e.argmax(1).tolist() == list(range(classes))


def test_coordinates_of_another_tower_change_nothing():
    u, labels = samples(4)
    plain = closed_form(memory_of((u, labels)), texts(4), ["image"], rank=99, penalty="auto", width=WIDE)
    wide = closed_form(
        memory_of((F.pad(u, (0, 7)), labels)), texts(4), ["image"], rank=99, penalty="auto", width=WIDE + 7
    )
    assert not wide[0][0, WIDE:-1].any()
    torch.testing.assert_close(
        (torch.cat([wide[0][0, :WIDE], wide[0][0, -1:]]) @ wide[1][0]), plain[0][0] @ plain[1][0], rtol=1e-3, atol=1e-4
    )


def test_few_samples_of_many_coordinates_choose_a_larger_penalty(monkeypatch):
    chosen = {each: Moments(memory_of(samples(6, each)), ["image"], WIDE).gcv_penalty() for each in (3, 400)}
    assert chosen[3] > 3 * chosen[400]


def test_unused_targets_are_the_texts():
    memory = memory_of(samples(4))
    dual, plain = (closed_form(memory, texts(4), ["image"], rank=99, penalty=1.0, width=WIDE, dual=d) for d in (1, 0))
    assert not torch.allclose(dual[0][0] @ dual[1][0], plain[0][0] @ plain[1][0], atol=1e-3)
    assert module.DUAL_PENALTY > 0


def test_a_modality_is_scored_on_the_coordinates_that_its_features_have():
    """Images have half of the coordinates alone, so their scores equal a discriminant on this half."""
    u, labels = samples(3)
    v, sounds = samples(3, first=3)
    u[:, WIDE // 2 :] = 0
    moments = Moments(memory_of((u, labels), (v, sounds)), ["image", "audio"], WIDE)
    assert moments.own[0].tolist() == list(range(WIDE // 2)) and moments.own[1].tolist() == list(range(WIDE))
    within = torch.diag(moments.within_diagonal) + moments.within_rows.T @ moments.within_rows
    share = 1 - moments.classes / moments.count
    system = share * within + 0.3 * moments.scale * torch.eye(WIDE).double()
    half = slice(WIDE // 2)
    x = randn(2, WIDE // 2).double()
    found = moments.inverse(0.3, moments.own[0])(x)
    torch.testing.assert_close(found, torch.linalg.solve(system[half, half], x.T).T)
    memory = memory_of((u, labels), (v, sounds))
    maps = module.discriminants(memory, moments, ["image", "audio"], 0.3, texts(6).double(), True)
    lost = maps[0][:-1].clone()
    lost[:DIM] += texts(6).double().T @ dual_basis(texts(6).double(), torch.tensor([1.0] * 3 + [0.1] * 3).double())
    assert not lost[WIDE // 2 :].any()
