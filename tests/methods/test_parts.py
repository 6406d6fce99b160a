import gc

import pytest
import torch
import torch.nn.functional as F

from mmcl_fast.methods.comm.memory import FeatureMemory, Gaussian
from mmcl_fast.methods.comm.realignment import Realigner, class_targets
from mmcl_fast.methods.comm.relevance import Relevance, Ridge
from mmcl_fast.methods.shared.embedding import BATCH, EmbeddingCache
from mmcl_fast.methods.shared.prompts import PromptBank
from tests.toy import ToyEncoder


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def covariance(g: Gaussian):
    return g.factor.T @ g.factor + torch.diag(g.diagonal)


def test_gaussian_merge_equals_one_pass():
    x = randn(30, 6) @ randn(6, 6, seed=1) + 3
    merged = Gaussian.fit(x[:9], 6).merge(x[9:20], 6).merge(x[20:], 6)
    assert merged.count == 30
    torch.testing.assert_close(merged.mean, x.mean(0))
    torch.testing.assert_close(covariance(merged), torch.cov(x.T), rtol=1e-3, atol=1e-4)


def test_low_rank_keeps_the_diagonal():
    x = randn(50, 12)
    g = Gaussian.fit(x, 3)
    assert g.factor.shape == (3, 12)
    torch.testing.assert_close(covariance(g).diagonal(), x.var(0), rtol=1e-4, atol=1e-5)


def pairs(count):
    """Labels of ``count`` samples of class 0 and as many of class 1."""
    return torch.arange(2).repeat_interleave(count)


def test_drawn_features_have_the_moments():
    memory = FeatureMemory(class_rank=8, modality_rank=8, shrink=0.3)
    memory.add("image", [0, 1], torch.cat([randn(40, 8) * 2 + 1, randn(40, 8, seed=2)]), pairs(40))
    drawn = memory.sample("image", 40000, torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close((drawn.T @ drawn / 40000).float(), memory.second_moment("image"), rtol=0.1, atol=0.15)
    a = memory.shrink
    for c, u in enumerate(drawn.float().split(40000)):
        own, pooled = memory.gaussian("image", c), memory.pooled["image"]
        torch.testing.assert_close(u.mean(0), own.mean, rtol=0, atol=0.1)
        torch.testing.assert_close(
            torch.cov(u.T), (1 - a) * covariance(own) + a * covariance(pooled), rtol=0.1, atol=0.1
        )


def test_drift_moves_near_means_by_the_local_drift():
    memory = FeatureMemory(4, 4, 0.5)
    at = torch.cat([randn(20, 4) * 0.1, randn(20, 4, seed=1) * 0.1 + 10])
    memory.add("image", [0, 1], at, pairs(20))
    moved = torch.cat([torch.full((20, 2), 1.0), torch.full((20, 2), -5.0)])
    before = memory.means("image")
    memory.correct_drift("image", [1], moved, at, 0.3, 2)
    torch.testing.assert_close(
        memory.means("image") - before, torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0] * 4]), atol=1e-3, rtol=0
    )
    memory.correct_drift("image", [], moved, at, 0.3, 2)
    assert memory.gaussian("image", 1).mean[0] < before[1, 0] - 4


def test_ridge_is_free_of_order_and_equals_the_direct_solution():
    x, y = randn(60, 5), torch.arange(60) % 3
    one, other = Ridge(5, 0.1), Ridge(5, 0.1)
    one.add(x, y, 3)
    for part in (slice(40, 60), slice(0, 7), slice(7, 40)):
        other.add(x[part], y[part], 3)
    torch.testing.assert_close(one(x), other(x))
    a = F.pad(x.double(), (0, 1), value=1.0)
    gram = a.T @ a
    direct = torch.linalg.solve(
        gram + 0.1 * gram.diagonal().mean() * torch.eye(6).double(), a.T @ F.one_hot(y, 3).double()
    )
    torch.testing.assert_close(one(x), (a @ direct).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["analytic", "mlp"])
def test_relevance_tells_modalities_apart(kind):
    centres = {"image": randn(1, 10, seed=1), "audio": randn(1, 10, seed=2), "depth": randn(1, 10, seed=3)}
    queries = {m: F.normalize(c + 0.2 * randn(50, 10, seed=i), dim=1) for i, (m, c) in enumerate(centres.items())}
    relevance = Relevance(10, kind, 0.2, 0.01)
    for i, (m, q) in enumerate(queries.items()):
        relevance.learn(q, m, {k: queries[k] for k in list(queries)[:i]}, torch.Generator().manual_seed(0))
    for i, q in enumerate(queries.values()):
        c = relevance(q)
        torch.testing.assert_close(c.sum(1), torch.ones(50))
        assert (c.argmax(1) == i).float().mean() > 0.95
    tensors, values = relevance.state()
    again = Relevance(10, kind, 0.2, 0.01)
    again.load_state(tensors, values)
    torch.testing.assert_close(again(queries["audio"]), relevance(queries["audio"]))


def test_dual_codes_make_cosines_one_hot_scores():
    texts = F.normalize(randn(6, 16), dim=1)
    torch.testing.assert_close(class_targets(texts, True) @ texts.T, torch.eye(6), atol=0.02, rtol=0)
    assert class_targets(texts, False) is texts


def test_closed_form_realignment_equals_ridge_regression():
    dim, extra = 6, 10
    texts = F.normalize(randn(4, dim), dim=1)
    memory, rows, labels = FeatureMemory(16, 16, 0.0), [], []
    for c in range(4):
        u = randn(200, dim + extra, seed=c) * 0.3 + randn(1, dim + extra, seed=50 + c)
        memory.add("image", [c], u, torch.full((200,), c))
        rows.append(u)
        labels += [c] * 200
    realigner = Realigner(dim, rank=dim, reads_query=True)
    realigner.solve(memory, texts, ["image"], 1e-3, True)
    u, y = torch.cat(rows).double(), class_targets(texts, True)[torch.tensor(labels)].double()
    gram = u.T @ u / 200
    lift = 1e-3 * gram.diagonal().mean() * torch.eye(dim + extra).double()
    weight = torch.linalg.solve(gram + lift, u.T @ (y - u[:, :dim]) / 200)
    direct = F.normalize(u[:, :dim] + u @ weight, dim=1).float()
    torch.testing.assert_close(realigner(u.float(), torch.ones(len(u), 1)), direct, rtol=0.02, atol=0.02)


def test_blend_stays_within_a_tower_and_is_renormalised():
    encoder = ToyEncoder()
    bank = PromptBank(encoder, 3)
    names = ["image", "text", "depth"]
    for i, m in enumerate(names):
        bank.prompts[m] = torch.full((2, 2, 3, 16), float(i + 1))
    c = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.4, 0.0]])
    blend = bank.blend("image", c, names)
    torch.testing.assert_close(blend[:, 0, 0, 0, 0], torch.tensor([(0.2 * 1 + 0.3 * 3) / 0.5, 1.0]))
    assert bank.blend("text", c, names).unique().tolist() == [2.0]
    assert bank.tower_shares("audio", torch.tensor([0.1, 0.2, 0.3, 0.4]), [*names, "audio"], also="audio")[0] == [
        "image",
        "depth",
        "audio",
    ]
    assert PromptBank(encoder, 3).blend("image", c, names) is None


def test_small_shares_are_left_out_and_one_always_stays():
    bank = PromptBank(ToyEncoder(), 3)
    names = ["image", "audio", "depth"]
    bank.prompts = {m: torch.zeros(2, 2, 3, 16) for m in names}
    c = torch.tensor([[0.98, 0.015, 0.005], [0.5, 0.5, 0.0], [0.34, 0.33, 0.33]])
    shares = bank.tower_shares("image", c, names, 0.02)[1]
    assert shares[0].tolist() == [1, 0, 0] and shares[1].tolist() == [0.5, 0.5, 0]
    torch.testing.assert_close(shares[2], c[2])
    assert bank.tower_shares("image", c, names, 1.0)[1].sum(1).tolist() == pytest.approx([1, 1, 1])


def counted(encoder, monkeypatch):
    """Rows that the head sees from now on."""
    seen, head = [], encoder.head

    def count(tokens, prefix, modality):
        seen.append(len(tokens))
        return head(tokens, prefix, modality)

    monkeypatch.setattr(encoder, "head", count)
    return seen


def test_z_is_computed_again_only_where_a_prompt_or_a_share_changed(monkeypatch):
    encoder, g = ToyEncoder(), torch.Generator().manual_seed(0)
    tokens = encoder.trunk(torch.rand(70, 1, 3, 8, 8, generator=g), "image")
    prompts = {m: torch.randn(2, 2, 3, 16, generator=g) for m in ("image", "depth")}
    shares = torch.eye(2)[torch.arange(70) % 2].contiguous()
    shares[0] = torch.tensor([0.25, 0.75])
    reuse, seen = EmbeddingCache(), counted(encoder, monkeypatch)

    def check(prompts, shares, place, passes):
        seen.clear()
        z = reuse.embed(encoder, tokens, "image", prompts, shares, place)
        assert len(seen) == passes and set(seen) <= {BATCH}
        assert torch.equal(z, EmbeddingCache().embed(encoder, tokens, "image", prompts, shares, place))

    check(prompts, shares, "agnostic", 3)
    check(prompts, shares, "agnostic", 0)
    check(prompts, shares, "given", 0)  # another place, the same samples
    moved = {**prompts, "depth": prompts["depth"] + 1}
    check(moved, shares, "agnostic", 2)  # the 35 samples of depth and the first
    other = shares.clone()
    other[2] = torch.tensor([0.5, 0.5])
    check(moved, other, "agnostic", 1)
    new = torch.cat([other, torch.zeros(70, 1)], 1)
    check({**moved, "audio": prompts["image"]}, new, "agnostic", 0)  # a new prompt that no sample uses
    check({}, torch.ones(70, 0), "bare", 3)
    check(moved, other, "agnostic", 0)
    moved["depth"].add_(1)  # the same tensor, written to
    check(moved, other, "agnostic", 2)


def test_what_is_kept_goes_with_the_tokens():
    encoder, reuse = ToyEncoder(), EmbeddingCache()
    tokens = encoder.trunk(torch.rand(2, 1, 3, 8, 8), "image")
    reuse.embed_with_prompt(encoder, tokens, "image")
    assert len(reuse._cached) == 1
    del tokens
    gc.collect()
    assert len(reuse._cached) == 0
