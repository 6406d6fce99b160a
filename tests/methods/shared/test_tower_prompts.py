"""One prompt for each tower: its parts, the methods that train them, and classifiers that read the query."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.media.spec import VisualSpec
from mmcl_fast.methods import Classes, TaskData, make_options, method_class
from mmcl_fast.methods.baselines.ewc import fisher_penalty
from mmcl_fast.methods.baselines.finetune import FinetuneOptions
from mmcl_fast.methods.shared.classifier import classifier_input
from mmcl_fast.methods.shared.embedding import unit_query
from mmcl_fast.methods.shared.prompt_pool import embed_with_own_prefix
from mmcl_fast.methods.shared.prompt_training import fresh_prompt
from mmcl_fast.methods.shared.token_scale_shift import TokenScaleShiftBank
from mmcl_fast.methods.shared.tower_prompts import TowerPrompts, join_parts, split_like
from tests.toy import ToyEncoder

QUICK = {"epochs": 2, "batch_size": 8}
PAIR = 2 * 16  # numbers of a shift and a scale
KEYS = [("image", str(c)) for c in range(4)]


class Clips(ToyEncoder):
    """Two frames a video."""

    def spec(self, modality):
        return VisualSpec(modality=modality, size=32, frames=2) if modality == "video" else super().spec(modality)


def tokens_of(positions: int, count: int = 8, seed: int = 0) -> Tokens:
    generator = torch.Generator().manual_seed(seed + positions)
    return Tokens(torch.randn(count, positions, 16, generator=generator), torch.randn(count, 48, generator=generator))


def task(index: int, classes: list[int], positions: int = 16, modality: str = "image") -> TaskData:
    return TaskData(index, modality, tokens_of(positions, seed=index), torch.tensor(classes * 4), classes)


def known(encoder: ToyEncoder) -> Classes:
    return Classes(KEYS, [str(k) for k in KEYS], encoder.text([str(k) for k in KEYS]))


def learned(name: str, *tasks: TaskData, **options):
    encoder = ToyEncoder()
    method = method_class(name)(encoder, make_options(name, {**QUICK, **options}))
    for data in tasks:
        method.learn(data, known(encoder))
    return method


def prompts_of(encoder: ToyEncoder | None = None, **options) -> TowerPrompts:
    return TowerPrompts(encoder or ToyEncoder(), FinetuneOptions(**options))


def new_prefix(tokens: Tokens, generator: torch.Generator) -> torch.Tensor:
    bank = TokenScaleShiftBank(ToyEncoder(), 8, False)
    bank.reserve(tokens, "image")
    return fresh_prompt(bank, tokens, "image", generator).view(2, 2, 8, 16)


def sizes(parts: dict[str, torch.Tensor]) -> dict[str, int]:
    return {name: part.numel() for name, part in parts.items()}


def test_a_tower_has_one_prefix_and_each_layout_its_own_scales_and_shifts() -> None:
    prompts, generator, prefix = prompts_of(Clips(), token_scale_shift=True), torch.Generator(), 2 * 2 * 8 * 16
    for modality, positions, layout, pairs in (
        ("image", 16, "vision/1x16", 16),
        ("depth", 16, "vision/1x16", 16),
        ("audio", 9, "vision/1x9", 9),
        ("video", 16, "vision/2x8", 8 + 2),
    ):
        parts = prompts.initial_parts(tokens_of(positions), modality, generator)
        assert sizes(parts) == {"vision": prefix, layout: pairs * PAIR}
        assert parts[layout].eq(0).all()
    text = prompts.initial_parts(tokens_of(5), "text", generator)
    assert sizes(text) == {"text": prefix}  # tokens of text lie on no grid
    plain = prompts_of().initial_parts(tokens_of(16), "image", torch.Generator().manual_seed(5))
    fresh = new_prefix(tokens_of(16), torch.Generator().manual_seed(5))
    assert list(plain) == ["vision"] and torch.equal(plain["vision"], fresh)


def test_known_parts_are_copied_and_draw_no_numbers() -> None:
    prompts, generator = prompts_of(token_scale_shift=True), torch.Generator()
    prompts.stored |= prompts.initial_parts(tokens_of(16), "image", generator)
    before = generator.get_state()
    again = prompts.initial_parts(tokens_of(16), "depth", generator)
    assert torch.equal(generator.get_state(), before)
    assert all(torch.equal(part, prompts.stored[name]) for name, part in again.items())
    again["vision"] += 1
    assert not torch.equal(again["vision"], prompts.stored["vision"])
    other = prompts.initial_parts(tokens_of(9), "audio", generator)
    assert torch.equal(other["vision"], prompts.stored["vision"])


def test_a_longer_text_adds_positions_and_keeps_the_others() -> None:
    prompts = prompts_of(token_scale_shift=True, text_scale_shift=True)
    prompts.stored |= prompts.initial_parts(tokens_of(5), "text", torch.Generator())
    prompts.stored["text/any"] += 1
    longer = prompts.initial_parts(tokens_of(7), "text", torch.Generator())["text/any"]
    assert longer.eq(1).sum() == 5 * PAIR and longer[5 * PAIR :].eq(0).all() and len(longer) == 7 * PAIR
    prompts.stored["text/any"] = longer
    assert len(prompts.initial_parts(tokens_of(4), "text", torch.Generator())["text/any"]) == 7 * PAIR


def test_a_sample_takes_the_parts_of_its_tower_and_layout_whatever_its_modality_is_called() -> None:
    prompts = prompts_of(token_scale_shift=True)
    assert prompts.prompt(tokens_of(16), "image") is None
    prompts.stored |= {
        name: part + 1 for name, part in prompts.initial_parts(tokens_of(16), "image", torch.Generator()).items()
    }
    whole = join_parts(prompts.stored)
    for modality in ("image", "depth"):
        assert torch.equal(prompts.prompt(tokens_of(16), modality), whole)
    assert torch.equal(prompts.prompt(tokens_of(9), "audio"), prompts.stored["vision"].flatten())
    assert prompts.prompt(tokens_of(5), "text") is None
    parts = split_like(whole, prompts.stored)
    assert all(torch.equal(parts[name], part) for name, part in prompts.stored.items())


@pytest.mark.parametrize("name", ["finetune", "ewc", "lwf", "slca", "replay"])
def test_scales_and_shifts_learn_at_their_own_rate(name: str) -> None:
    tasks = task(0, [0, 1]), task(1, [2, 3], positions=9, modality="audio")
    options = {"align_epochs": 1, "sampled_features": 8} if name == "slca" else {}
    still = learned(name, *tasks, token_scale_shift=True, scale_shift_lr=0.0, lr=0.01, **options)
    moved = learned(name, *tasks, token_scale_shift=True, scale_shift_lr=0.01, lr=0.0, **options)
    for layout in ("vision/1x16", "vision/1x9"):
        assert still.prompts.stored[layout].eq(0).all() and moved.prompts.stored[layout].ne(0).any()
    start = new_prefix(tasks[0].tokens, moved.generator(0, 3))
    torch.testing.assert_close(moved.prompts.stored["vision"], start)
    assert not torch.allclose(still.prompts.stored["vision"], start)
    again = type(moved)(ToyEncoder(), moved.options)
    again.load_state(*moved.state())
    tokens = tokens_of(16, seed=7)
    scores = [m.scores(tokens, "image", known(m.encoder), given=False) for m in (moved, again)]
    assert torch.equal(*scores)


@pytest.mark.parametrize("name", ["finetune", "replay", "s_prompts", "ease", "joint"])
def test_one_task_changes_scales_and_shifts_by_a_table_of_the_given_rank(name: str) -> None:
    for rank, least in ((2, 1), (0, 3)):
        method = learned(name, task(0, [0, 1]), token_scale_shift=True, scale_shift_rank=rank, lr=0.01)
        method.finish(known(method.encoder))
        if name in ("finetune", "replay"):
            table = method.prompts.stored["vision/1x16"]
        else:
            prompts = {
                "s_prompts": lambda: method.domains[0].prompt,
                "ease": lambda: method.towers["vision"].prompts[0],
                "joint": lambda: method.bank.prompts["image"],
            }
            table = prompts[name]()[2 * 2 * 8 * 16 :]
        found = int(torch.linalg.matrix_rank(table.view(16, PAIR), rtol=1e-4))
        assert least <= found and (not rank or found <= rank)


def test_finetune_scores_texts_under_the_whole_prompt() -> None:
    method = learned("finetune", task(0, [0, 1]), token_scale_shift=True, lr=0.05, scale_shift_lr=0.05)
    tokens, classes = tokens_of(16, seed=3), known(method.encoder)
    z = method.prompts.head.head(tokens, join_parts(method.prompts.stored), "image")
    expected = 10 * F.normalize(z, dim=1) @ classes.embedding.T
    torch.testing.assert_close(method.scores(tokens, "image", classes, given=False), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["ewc", "lwf", "slca", "replay", "l2p", "dualprompt", "coda_prompt"])
def test_a_classifier_of_z_and_q_scores_both(name: str) -> None:
    method = learned(name, task(0, [0, 1]), features="zq", epochs=1)
    tokens, pool = tokens_of(16, seed=3), name in ("l2p", "dualprompt", "coda_prompt")
    if pool:
        z = embed_with_own_prefix(
            method.encoder, tokens, "image", lambda query: method.prefix(query, method.pools["vision"])
        )
    else:
        z = method.prompts.head.head(tokens, join_parts(method.prompts.stored), "image")
    head = method.classifier
    assert head.weight[:2, :24].ne(0).any() and head.weight[:2, 24:].ne(0).any()  # both parts were learned
    expected = classifier_input(z, tokens.query) @ head.weight.T + head.bias
    scores = method.scores(tokens, "image", known(method.encoder), given=False)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)


def test_ewcs_fisher_covers_all_parts_of_a_prompt_and_the_rows_for_the_query() -> None:
    method = learned("ewc", task(0, [0, 1]), token_scale_shift=True, features="zq", strength=0.0)
    data, head = task(1, [0, 1]), method.classifier
    found = method._task_fisher(data, head)
    names = ["vision", "vision/1x16", "weight", "bias"]
    expected = {name: torch.zeros_like(found[name]) for name in names}
    generator = method.generator(1, 4)
    prompt = join_parts(method.prompts.stored)
    logits = head(method.prompts.head.head(data.tokens, prompt, "image"), unit_query(data.tokens))[:, :2]
    drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    for i in range(8):
        leaves = [p.clone().requires_grad_(True) for p in (*method.prompts.stored.values(), *head.parameters)]
        one = data.tokens[torch.tensor([i])]
        z = method.prompts.head.head(one, join_parts(dict(zip(names, leaves[:2]))), "image")
        logits = (classifier_input(z, one.query) @ leaves[2].T + leaves[3])[:, :2]
        logits.log_softmax(1)[0, drawn[i]].backward()
        for name, leaf in zip(names, leaves):
            expected[name] += leaf.grad.square() / 8
    for name in names:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-8)
        assert found[name].gt(0).any()


def test_ewc_holds_scales_and_shifts_where_they_were() -> None:
    tasks, moved = (task(0, [0, 1]), task(1, [2, 3])), {}
    for strength in (0.0, 1e8):
        method = learned("ewc", tasks[0], token_scale_shift=True, strength=strength, epochs=8, batch_size=4)
        before = dict(method.prompts.stored)
        method.learn(tasks[1], known(method.encoder))
        held = {name: method.fisher[name] for name in before}
        moved[strength] = float(
            fisher_penalty(held, method.prompts.stored, before) / sum(f.sum() for f in held.values())
        )
    assert moved[1e8] < moved[0.0] / 10


def test_slcas_gaussians_are_of_z_and_q() -> None:
    data = task(0, [0, 1])
    method = learned("slca", data, task(1, [2, 3]), features="zq", align_epochs=1, sampled_features=8)
    assert method.gaussians[3].mean.shape == (72,)
    prompt, rows = join_parts(method.prompts.stored), task(1, [2, 3]).labels == 3
    tokens = task(1, [2, 3]).tokens[rows]
    x = classifier_input(method.prompts.head.head(tokens, prompt, "image"), tokens.query)
    torch.testing.assert_close(method.gaussians[3].mean, x.mean(0), rtol=1e-4, atol=1e-4)


def test_replay_keeps_queries_only_where_its_classifier_reads_them() -> None:
    data = task(0, [0, 1])
    for features, kept in (("z", 0), ("zq", 48)):
        for selection in ("reservoir", "herding"):
            method = learned("replay", data, task(1, [0, 2]), features=features, selection=selection, budget=12)
            assert method.exemplars["image"].query.shape == (len(method.labels["image"]), kept)
            assert ("exemplars/image/query" in method.state()[0]) is (kept > 0)
            again = type(method)(ToyEncoder(), method.options)
            again.load_state(*method.state())
            assert torch.equal(again.exemplars["image"].query, method.exemplars["image"].query)
    row = method.exemplars["image"].tokens[0]
    came = torch.cat([t.tokens.tokens for t in (data, task(1, [0, 2]))]).bfloat16()
    queries = torch.cat([t.tokens.query for t in (data, task(1, [0, 2]))])
    position = int((came == row).all(2).all(1).nonzero()[0])
    assert torch.equal(method.exemplars["image"].query[0], queries[position])
