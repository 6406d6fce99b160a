"""The training of prompts with COMM's aids: steps, dropped channels, units, rates of towers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods import Classes, TaskData, make_options, method_class
from mmcl_fast.methods.comm.options import CommOptions
from mmcl_fast.methods.shared import prompt_training
from mmcl_fast.methods.shared.features import FeatureOptions
from mmcl_fast.methods.shared.prompt_training import (
    PromptOptions,
    PromptTraining,
    channel_dropout,
    drop_random_channels,
    fresh_prompt,
    step_batches,
    step_count,
)
from mmcl_fast.methods.shared.prompts import batches, prefix_units
from mmcl_fast.methods.shared.token_scale_shift import TokenScaleShiftBank
from tests.toy import ScaledEncoder, ToyEncoder

KEYS = [("image", "0"), ("image", "1")]
TOWERS = ("finetune", "lwf", "replay")  # methods with one prompt for a tower
ON: dict[str, dict[str, Any]] = {  # options with which a method trains COMM's kind of prompt
    "ncm": {"adaptation": "scale_shift"},
    **{name: {"token_scale_shift": True} for name in ("s_prompts", "ease", *TOWERS)},
}


def tokens_of(count: int = 12, positions: int = 4, modality_seed: int = 0) -> Tokens:
    generator = torch.Generator().manual_seed(modality_seed)
    return Tokens(torch.randn(count, positions, 16, generator=generator), torch.randn(count, 48, generator=generator))


def learned(name: str, modality: str = "image", encoder: ToyEncoder | None = None, **options: Any) -> Any:
    encoder = encoder or ToyEncoder()
    method = method_class(name)(encoder, make_options(name, {"epochs": 1, "batch_size": 6, **options}))
    data = TaskData(0, modality, tokens_of(), torch.arange(12) % 2, [0, 1])
    method.learn(data, Classes(KEYS, ["0", "1"], encoder.text(["0", "1"])))
    return method


def test_a_task_takes_its_epochs_and_at_least_the_given_steps() -> None:
    options = PromptOptions(epochs=3, batch_size=4, least_steps=10)
    assert [step_count(n, options) for n in (3, 9, 13, 40)] == [10, 10, 12, 30]
    assert step_count(9, PromptOptions(epochs=0, least_steps=10)) == 0
    first, second = (torch.Generator().manual_seed(3) for _ in range(2))
    plan = step_batches(9, 4, 7, first)
    assert [len(rows) for rows in plan] == [4, 4, 1, 4, 4, 1, 4]
    expected = batches(9, 4, 3, second)
    assert all(torch.equal(a, b) for a, b in zip(plan, expected)) and step_batches(9, 4, 0, first) == []


def test_auto_follows_token_scale_shift_with_the_defaults_of_comm() -> None:
    comm = CommOptions()
    plain, ours = PromptOptions(), PromptOptions(token_scale_shift=True)
    assert (channel_dropout(plain), step_count(1, plain)) == (0.0, plain.epochs)
    assert channel_dropout(ours) == comm.channel_dropout == FeatureOptions().channel_dropout
    assert step_count(1, ours) == comm.least_steps == FeatureOptions().least_steps
    assert channel_dropout(PromptOptions(channel_dropout=0.5)) == 0.5
    assert step_count(1, PromptOptions(token_scale_shift=True, least_steps=0)) == ours.epochs
    for options in (PromptOptions(), FeatureOptions()):
        assert options.scale_shift_rank == comm.scale_shift_rank
        assert options.scale_shift_lr == comm.scale_shift_lr
    assert (FeatureOptions().lr, FeatureOptions().text_lr) == (comm.lr, comm.text_lr)


def test_each_sample_loses_its_own_channels_at_all_positions() -> None:
    tokens, generator = tokens_of(200), torch.Generator().manual_seed(1)
    before = generator.get_state()
    assert drop_random_channels(tokens, 200, 0.0, generator) is tokens and torch.equal(generator.get_state(), before)
    x = drop_random_channels(tokens, 200, 0.25, generator).tokens
    lost = x.eq(0)
    assert torch.equal(lost.all(1), lost.any(1)) and float(lost.float().mean()) == pytest.approx(0.25, abs=0.03)
    torch.testing.assert_close(x[~lost], tokens.tokens[~lost] / 0.75)
    assert not torch.equal(lost[0], lost[1])


def test_a_new_prefix_is_in_the_units_of_keys_and_values() -> None:
    encoder, tokens = ToyEncoder(), tokens_of()
    bank = TokenScaleShiftBank(encoder, 8, True)
    bank.reserve(tokens, "image")
    prompt, plain = (
        make(torch.Generator().manual_seed(2))
        for make in (lambda g: fresh_prompt(bank, tokens, "image", g), lambda g: bank.fresh("image", g))
    )
    prefix, pairs = bank.head.unpack(prompt, "image", 16)
    units = prefix_units(encoder, tokens, "image")
    torch.testing.assert_close(prefix, bank.head.unpack(plain, "image", 16)[0] * units[:, :, None, None])
    assert units.sub(1).abs().min() > 0.01 and pairs.shape == (4, 32) and not pairs.any()


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_step_moves_a_prefix_by_its_towers_rate_times_the_units(modality: str) -> None:
    """Adam's first step moves each number by the rate."""
    encoder, tokens, generator = ToyEncoder(), tokens_of(), torch.Generator().manual_seed(0)
    bank = TokenScaleShiftBank(encoder, 8, False)
    bank.reserve(tokens, modality)
    start = bank.fresh(modality, generator)
    cases: list[tuple[Any, float]] = [("auto", 0.01), (0.1, 0.1 if modality == "text" else 0.01)]
    for text_lr, rate in cases:
        options = PromptOptions(lr=0.01, text_lr=text_lr)
        training = PromptTraining(bank.head, start, tokens, modality, options, generator)
        parameters, lr = training.groups[0]
        optimiser = torch.optim.Adam([p.requires_grad_(True) for p in parameters], lr=lr)
        bank.head.head(tokens, training(), modality).square().sum().backward()
        optimiser.step()
        moved = (training().detach() - start).abs().view(bank.head.prefix(modality)).amax((2, 3))
        torch.testing.assert_close(moved, rate * prefix_units(encoder, tokens, modality), rtol=0.01, atol=0)


@pytest.mark.parametrize("name", ["ncm", "s_prompts", "finetune"])
def test_an_encoder_with_scaled_weights_learns_the_same(name: str) -> None:
    """Its keys and values are 7 times as large, and its queries and output projections as much smaller."""
    scores = []
    for factor in (1.0, 7.0):
        encoder = ScaledEncoder(factor)
        method = learned(name, encoder=encoder, **ON[name])
        classes = Classes(KEYS, ["0", "1"], encoder.text(["0", "1"]))
        scores.append(method.scores(tokens_of(5, modality_seed=3), "image", classes, given=True))
    torch.testing.assert_close(*scores, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("name", sorted(ON))
def test_methods_drop_channels_and_take_the_least_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    real = prompt_training.drop_channels

    def recorded(tokens: Tokens, kept: torch.Tensor, share: float) -> Tokens:
        shares.append(share)
        return real(tokens, kept, share)

    monkeypatch.setattr(prompt_training, "drop_channels", recorded)
    learned(name, **ON[name])
    assert shares == [0.2] * 40  # two batches a pass, but 40 steps at least
    shares.clear()
    learned(name, **ON[name], channel_dropout=0.5, least_steps=3)
    assert shares == [0.5] * 3
    shares.clear()
    learned(name, **ON[name], channel_dropout=0.0)
    learned(name)
    assert not shares


@pytest.mark.parametrize("name", ["l2p", "dualprompt", "coda_prompt"])
def test_pools_have_dropped_channels_least_steps_and_a_rate_of_texts(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    real = prompt_training.drop_channels
    monkeypatch.setattr(
        prompt_training, "drop_channels", lambda t, kept, share: counts.append(len(kept)) or real(t, kept, share)
    )
    learned(name)
    assert not counts
    learned(name, channel_dropout=0.3, least_steps=3)
    assert counts == [6] * 3
    pools = [learned(name, "text", lr=0.01, text_lr=rate).pools["text"] for rate in ("auto", 0.01, 0.1)]
    same = [all(torch.equal(pools[0][k], pool[k]) for k in pool) for pool in pools]
    assert same == [True, True, False]


def test_exemplars_lose_channels_too(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    real = prompt_training.drop_channels
    monkeypatch.setattr(
        prompt_training, "drop_channels", lambda t, kept, share: counts.append(len(kept)) or real(t, kept, share)
    )
    method = learned("replay", channel_dropout=0.3, least_steps=1)
    assert counts == [6, 6]
    data = TaskData(1, "image", tokens_of(6), torch.arange(6) % 2, [0, 1])
    method.learn(data, Classes(KEYS, ["0", "1"], method.encoder.text(["0", "1"])))
    assert counts[2:] == [6, 6]  # a batch of the task and as many exemplars


@pytest.mark.parametrize("name", sorted(ON))
def test_methods_train_texts_at_their_own_rate(name: str) -> None:
    def prefix(**options: Any) -> torch.Tensor:
        method = learned(name, "text", **ON[name], lr=0.01, **options)
        if name in TOWERS:
            return method.prompts.stored["text"]
        if name == "s_prompts":
            return method.domains[0].prompt
        return method.towers["text"].prompts[0] if name == "ease" else method.reader.bank.prompts["text"]

    slow, fast = prefix(text_lr="auto"), prefix(text_lr=0.2)
    assert torch.equal(slow, prefix(text_lr=0.01)) and float((slow - fast).abs().max()) > 0.1
