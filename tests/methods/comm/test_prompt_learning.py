"""Prompt learning of COMM: the shrunk update, self-regularisation, borrowing, and the test of whether prompts pay."""

from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods import Classes, TaskData, make_options
from mmcl_fast.methods.comm.method import Comm
from mmcl_fast.methods.comm.prompt_learning import PromptLearner, describe_test
from mmcl_fast.methods.shared.embedding import embed_all, unit_query
from mmcl_fast.methods.shared.prompts import prefix_units
from tests.methods.comm.test_method import task
from tests.toy import WIDTH, ScaledEncoder, ToyEncoder

QUICK = {"prompts": True, "epochs": 1, "least_steps": 12, "realignment": "off", "batch_size": 8}
KEYS = [(m, str(i)) for m, n in (("image", 4), ("audio", 2), ("depth", 2)) for i in range(n)]


def comm(encoder, **options):
    return Comm(encoder, make_options("comm", {**QUICK, **options}))


def classes_of(encoder):
    return Classes(KEYS, [str(k) for k in KEYS], encoder.text([str(k) for k in KEYS]))


def halves(encoder, index, modality, ids, count=80, seed=0):
    """Two classes that differ in which half of the positions has the larger tokens: a mean over all can't tell."""
    g = torch.Generator().manual_seed(seed)
    which = torch.arange(count) % 2
    x = torch.randn(count, 16, WIDTH, generator=g)
    x[:, :8] += 2.0 * (which == 0)[:, None, None]
    x[:, 8:] += 2.0 * (which == 1)[:, None, None]
    query = F.pad((x.mean(1) @ encoder.query["vision"]).relu(), (0, 24))
    return TaskData(index, modality, Tokens(x, query), torch.tensor(ids)[which], ids)


def learner_of(method, data, old_classes=None):
    """The object that learns the prompt of a task whose modality has no prompt yet."""
    method.relevance.modalities.append(data.modality)
    method.bank.reserve(data.tokens, data.modality)
    shares = torch.ones(1)
    query = unit_query(data.tokens)
    classes = classes_of(method.encoder)
    return PromptLearner(
        method, method.bank, data, classes, query, [data.modality], shares, old_classes, True, method.prompts_pay
    )


# ---- the update -----------------------------------------------------------------------------------------------


def test_an_update_is_shrunk_by_the_samples_of_a_class():
    """P <- P0 + n / (n + kappa) (P - P0), from the second task of a modality on."""
    encoder = ToyEncoder()
    found = {}
    for aggregation in (False, True):
        method = comm(encoder, aggregation=aggregation, prompt_prior=3.0)
        method.learn(task(encoder, 0, "image", [0, 1], 0), classes_of(encoder))
        start = method.bank.prompts["image"]
        method.learn(task(encoder, 1, "image", [2, 3], 1, per_class=5), classes_of(encoder))
        found[aggregation] = start, method.bank.prompts["image"]
    assert torch.equal(found[True][0], found[False][0])  # nothing was known before the first task
    start, trained = found[False]
    assert not torch.allclose(start, trained)
    torch.testing.assert_close(found[True][1], start + 5 / (5 + 3.0) * (trained - start))


def moved(method, before, prompt, data):
    """Return the mean of 1 - cos between the embeddings of samples under two prompts."""
    z = [embed_all(method.bank.head, data, "image", [p]) for p in (before, prompt)]
    return float((1 - F.cosine_similarity(*z)).mean())


def test_self_regularisation_keeps_old_classes_in_place_by_their_mean_tokens():
    """The new classes' samples alone can't do that."""
    encoder, turned = ToyEncoder(), {}
    first, second = (task(encoder, i, "image", ids, i) for i, ids in enumerate(([0, 1], [2, 3])))
    for beta, token_means in ((0.0, True), (200.0, False), (200.0, True)):
        method = comm(
            encoder,
            aggregation=False,
            channel_dropout=0.0,
            least_steps=60,
            scale_shift_rank=0,
            self_regularisation=beta,
            token_means=token_means,
        )
        method.learn(first, classes_of(encoder))
        before = method.bank.prompts["image"]
        method.learn(second, classes_of(encoder))
        means = torch.stack([first.tokens.tokens[first.labels == c].mean(0) for c in (0, 1)])
        data = Tokens(means, torch.zeros(2, 48))
        turned[beta, token_means] = moved(method, before, method.bank.prompts["image"], data)
    assert turned[200.0, True] < 0.3 * turned[200.0, False] < 0.3 * turned[0.0, True], turned


def test_means_of_old_classes_move_as_the_embeddings_of_their_mean_tokens_do():
    encoder = ToyEncoder()
    method = comm(encoder)
    method.learn(task(encoder, 0, "image", [0, 1], 0), classes_of(encoder))
    old, means = method.bank.prompts["image"], method.memory.means("image").clone()
    tokens = method.token_means.others("image", [], False)[1]
    method.learn(task(encoder, 1, "image", [2, 3], 1), classes_of(encoder))
    new = method.bank.prompts["image"]
    z = [F.normalize(embed_all(method.bank.head, tokens, "image", [p]), dim=1) for p in (old, new)]
    drift = method.memory.means("image")[:2] - means
    torch.testing.assert_close(drift[:, : encoder.dim], z[1] - z[0], rtol=1e-4, atol=1e-5)
    assert drift[:, : encoder.dim].abs().max() > 1e-3 and not drift[:, encoder.dim :].any()


@pytest.mark.parametrize("token_means", [True, False])
def test_a_class_that_comes_again_moves_before_its_new_samples_are_merged(monkeypatch, token_means):
    encoder = ToyEncoder()
    method = comm(encoder, token_means=token_means)
    method.learn(task(encoder, 0, "image", [0, 1], 0), classes_of(encoder))
    before, moved = method.memory.means("image").clone(), []
    add = method.memory.add
    monkeypatch.setattr(
        method.memory, "add", lambda *args: moved.append(method.memory.means("image").clone()) or add(*args)
    )
    data = task(encoder, 1, "image", [0, 1], 1)
    method.learn(data, classes_of(encoder))
    (moved,) = moved
    assert ((moved - before)[:, : encoder.dim].abs().amax(1) > 1e-4).all()
    u = method._features(data.tokens, "image", unit_query(data.tokens))
    new = torch.stack([u[data.labels == c].mean(0) for c in (0, 1)])
    torch.testing.assert_close(method.memory.means("image"), (moved + new) / 2)


def test_classes_of_an_older_run_follow_the_drift_of_the_samples():
    """Their state has no mean tokens. Classes learned since then have them."""
    encoder = ToyEncoder()
    method = comm(encoder)
    for index, ids in enumerate(([0, 1], [2, 3])):
        method.learn(task(encoder, index, "image", ids, index), classes_of(encoder))
    tensors, values = method.state()
    rows = [values["token_means"]["image"].index(c) for c in (2, 3)]
    for name in ("tokens/mean/image", "tokens/count/image"):
        tensors[name] = tensors[name][rows]
    method.load_state(tensors, {**values, "token_means": {"image": [2, 3]}})
    means = method.memory.means("image").clone()
    method.learn(task(encoder, 2, "image", [0, 1], 5), classes_of(encoder))  # 0 and 1 are met again
    met_again = method.memory.means("image")[2:] - means[2:]
    assert met_again[:, : encoder.dim].abs().max() > 1e-4
    means = method.memory.means("image").clone()
    method.token_means.classes["image"] = [2, 3]
    for name in ("means", "counts"):
        setattr(method.token_means, name, {"image": getattr(method.token_means, name)["image"][:2]})
    method.learn(task(encoder, 3, "image", [4, 5], 6), classes_of(encoder))
    drift = (method.memory.means("image")[:4] - means[:4])[:, : encoder.dim].abs().amax(1)
    assert (drift > 1e-4).all()


def test_an_encoder_with_scaled_weights_learns_the_same():
    """Its keys and values are 7 times as large, so is the prefix, and embeddings are the same."""
    found = []
    for c in (1.0, 7.0):
        encoder = ScaledEncoder(c)
        data = halves(encoder, 0, "image", [0, 1])
        method = comm(encoder, least_steps=30)
        torch.testing.assert_close(
            encoder.head(data.tokens, None, "image"), ToyEncoder().head(data.tokens, None, "image")
        )
        method.learn(data, classes_of(encoder))
        prompt = method.bank.prompts["image"]
        prefix, table = method.bank.head.split(prompt, "image")
        start = embed_all(method.bank.head, data.tokens, "image")
        found.append((prefix / c, table, embed_all(method.bank.head, data.tokens, "image", [prompt]), start))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3)
    assert (found[0][2] - found[0][3]).abs().max() > 0.5


def test_units_are_the_sizes_of_a_blocks_keys_and_values_and_1_for_other_heads():
    encoder = ToyEncoder()
    data = halves(encoder, 0, "image", [0, 1], 4)
    block = encoder.layers["vision"][0]
    _, k, v = F.linear(block.norm1(data.tokens.tokens), block.qkv.weight, block.qkv.bias).chunk(3, dim=-1)
    units = prefix_units(encoder, data.tokens, "image")
    assert units.shape == (2, 2)
    torch.testing.assert_close(units[0], torch.stack([k.square().mean().sqrt(), v.square().mean().sqrt()]))

    class Other(ToyEncoder):
        def head(self, tokens, prefix, modality):
            return tokens.tokens.mean(1) @ self.out

    assert torch.equal(prefix_units(Other(), data.tokens, "image"), torch.ones(2, 2))


# ---- borrowing ------------------------------------------------------------------------------------------------


def only_first_half(method, modality):
    """A prompt of a modality whose gains remove the second half of the positions, and a prefix as the others have."""
    prompt = method.bank.fresh(modality, torch.Generator().manual_seed(1))
    prefix, table = method.bank.head.split(prompt, modality)
    pairs = table.view(16, 2 * WIDTH)
    pairs[8:, WIDTH:] = -1.0
    return torch.cat([prefix, pairs.flatten()])


def test_borrowing_takes_the_modality_whose_prompt_helps():
    encoder = ToyEncoder()
    method = comm(encoder)
    data = halves(encoder, 0, "image", [0, 1], 24)
    for m in ("audio", "depth"):
        method.bank.reserve(data.tokens, m)
        method.bank.prompts[m] = method.bank.fresh(m, torch.Generator().manual_seed(2))
    learner = learner_of(method, data)
    assert learner._borrow() is None  # both say no more than the bare head
    method.bank.prompts["depth"] = helpful = only_first_half(method, "depth")
    borrowed = learner._borrow()
    assert borrowed is not None
    near, far = (borrowed - method.bank.prompts[m] for m in ("depth", "audio"))
    assert near.norm() < 0.1 * far.norm()
    method.bank.prompts = {"text": helpful}  # of another tower
    assert learner._borrow() is None


def test_borrowed_knowledge_is_the_start_and_the_update_is_shrunk_towards_it():
    """With a rate of 0 the first prompt is the borrowed one; without blending it is a new one."""
    encoder = ToyEncoder()
    data = halves(encoder, 1, "image", [0, 1], 24)
    found = {}
    still = {"lr": 0.0, "scale_shift_lr": 0.0}
    for blending in (True, False):
        method = comm(encoder, blending=blending, **still)
        method.learn(halves(encoder, 0, "depth", [6, 7], 24, seed=3), classes_of(encoder))
        method.bank.prompts["depth"] = only_first_half(method, "depth")
        method.learn(data, classes_of(encoder))
        found[blending] = method.bank.prompts["image"]
    torch.testing.assert_close(found[True], method.bank.prompts["depth"], rtol=1e-5, atol=1e-6)
    assert not method.bank.head.split(found[False], "image")[1].any()


# ---- whether prompts pay --------------------------------------------------------------------------------------


class Recorder:
    """A progress display that keeps its lines."""

    def __init__(self):
        self.lines = []

    @contextmanager
    def phase(self, name, total=None):
        yield self

    def advance(self, n=1): ...

    def log(self, line):
        self.lines.append(line)


AUTO = {"prompts": "auto", "least_steps": 60}


def test_prompts_are_learned_only_where_held_out_samples_say_that_they_pay():
    encoder = ToyEncoder()
    method = comm(encoder, **AUTO)
    method.progress = Recorder()
    clear = task(encoder, 0, "audio", [4, 5], 0, per_class=40)
    clear.tokens.tokens[clear.labels == 4] += 3.0 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(8))
    method.learn(clear, classes_of(encoder))
    assert "audio" not in method.bank.prompts
    method.learn(halves(encoder, 1, "image", [0, 1]), classes_of(encoder))
    assert "image" in method.bank.prompts
    (no,), (yes,) = method.prompts_pay["audio"], method.prompts_pay["image"]
    assert no["task"] == 0 and not no["pays"] and no["bare"] < 0.05 and no["prompted"] is None  # it can't fall by 0.05
    assert yes["task"] == 1 and yes["pays"] and yes["prompted"] < yes["bare"] - 0.05
    assert method.state()[1]["prompts_pay"] == {"audio": [no], "image": [yes]}
    assert method.progress.lines == [describe_test("audio", no), describe_test("image", yes)]
    # With too few samples for a test the modality does as others did.
    method.learn(task(encoder, 2, "depth", [6, 7], 2), classes_of(encoder))
    assert "depth" in method.bank.prompts and "depth" not in method.prompts_pay
    # A modality with a prompt is not tested again, and one without is.
    method.learn(halves(encoder, 3, "image", [2, 3], seed=5), classes_of(encoder))
    method.learn(halves(encoder, 4, "audio", [4, 5], seed=6), classes_of(encoder))
    assert [len(method.prompts_pay[m]) for m in ("image", "audio")] == [1, 2] and "audio" in method.bank.prompts


def test_where_prompts_did_not_pay_only_a_harder_task_is_tested_and_one_class_learns_none():
    encoder = ToyEncoder()
    method = comm(encoder, **AUTO)
    for index in range(2):
        data = task(encoder, index, "audio", [4, 5], index, per_class=40)
        data.tokens.tokens[data.labels == 4] += 3.0
        method.learn(data, classes_of(encoder))
    assert [t["task"] for t in method.prompts_pay["audio"]] == [0] and not method.bank.prompts
    method.learn(halves(encoder, 2, "audio", [4, 5]), classes_of(encoder))
    assert [t["task"] for t in method.prompts_pay["audio"]] == [0, 2] and "audio" in method.bank.prompts
    method.learn(task(encoder, 3, "image", [0], 3), classes_of(encoder))
    assert "image" not in method.bank.prompts and "image" not in method.prompts_pay


@pytest.mark.parametrize("mask", [torch.ones(16, 4, dtype=torch.bool), None])  # some encoders mask no padding
def test_texts_have_no_mean_tokens(mask):
    """Their tokens have no common layout."""
    encoder = ToyEncoder()
    method = comm(encoder)
    data = task(encoder, 0, "text", [0, 1], 0)
    data.tokens = Tokens(data.tokens.tokens, data.tokens.query, mask)
    method.learn(data, classes_of(encoder))
    assert not method.token_means.classes


def test_the_line_about_a_test():
    test = {"task": 0, "bare": 0.581, "prompted": 0.069, "pays": True}
    assert describe_test("image", test) == "image: prompts pay (error 0.58 -> 0.07 on held-out samples): learned"
    test = {"task": 0, "bare": 0.02, "prompted": None, "pays": False}
    assert describe_test("video", test) == (
        "video: prompts can't pay (error 0.02 on held-out samples without): not learned"
    )
    test = {"task": 0, "bare": 0.2, "prompted": 0.21, "pays": False}
    assert describe_test("text", test) == (
        "text: prompts do not pay (error 0.20 -> 0.21 on held-out samples): not learned"
    )


def test_samples_of_a_modality_without_a_prompt_keep_the_bare_head_beside_others_prompts(monkeypatch):
    encoder = ToyEncoder()
    method = comm(encoder, prompts="auto")
    monkeypatch.setattr(PromptLearner, "_pays", lambda self, *_: self.modality != "image")
    image, audio = task(encoder, 0, "image", [0, 1], 0), task(encoder, 1, "audio", [4, 5], 1)
    method.learn(image, classes_of(encoder))
    method.learn(audio, classes_of(encoder))
    assert list(method.bank.prompts) == ["audio"]
    dim = encoder.dim

    def z(data, given):
        return method.embed(data.tokens, "image", given=given)[:, :dim]

    bare = F.normalize(embed_all(encoder, image.tokens, "image"), dim=1)
    prompted = F.normalize(embed_all(method.bank.head, audio.tokens, "audio", [method.bank.prompts["audio"]]), dim=1)
    for given in (True, False):
        torch.testing.assert_close(z(image, given), bare)
    torch.testing.assert_close(method.embed(audio.tokens, "audio", given=True), prompted)
    # Samples of both in one batch, modality not given: each keeps its own.
    both = Tokens(
        torch.cat([image.tokens.tokens, audio.tokens.tokens]), torch.cat([image.tokens.query, audio.tokens.query])
    )
    torch.testing.assert_close(method.embed(both, "image", given=False), torch.cat([bare, prompted]))
    with method.embedding_cache.trace():
        torch.testing.assert_close(method.embed(both, "image", given=False), torch.cat([bare, prompted]))
