"""Prompts of two parts: a prefix, and a scale and shift for each of the trunk's tokens."""

from __future__ import annotations

import pytest
import torch

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.media.spec import VisualSpec
from mmcl_fast.methods.shared.prompts import train_groups
from mmcl_fast.methods.shared.token_scale_shift import (
    PromptInTraining,
    TokenScaleShiftBank,
    TokenScaleShiftHead,
    drop_channels,
)
from tests.toy import ToyEncoder

WIDTH = 16


class Clips(ToyEncoder):
    """Two frames of four cells."""

    def spec(self, modality):
        return VisualSpec(modality=modality, size=32, frames=2) if modality == "video" else super().spec(modality)


def tokens_of(count: int, positions: int) -> Tokens:
    generator = torch.Generator().manual_seed(positions)
    return Tokens(
        torch.randn(count, positions, WIDTH, generator=generator), torch.randn(count, 16, generator=generator)
    )


def moved_by(rows: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    shift, gain = rows[:, :WIDTH], rows[:, WIDTH:]
    return x + gain * x + x.square().mean(-1, keepdim=True).sqrt() * shift


def test_a_pair_scales_and_shifts_the_token_at_its_position_and_the_prefix_stays_one():
    encoder, tokens = ToyEncoder(), tokens_of(5, 16)
    head = TokenScaleShiftHead(encoder, 3, True)
    prompt = torch.randn(head.prompt_size(tokens, "image"), generator=torch.Generator().manual_seed(0))
    prefix, rows = head.unpack(prompt, "image", WIDTH)
    assert prefix.shape == (2, 2, 3, WIDTH) and rows.shape == (16, 2 * WIDTH)
    moved = Tokens(moved_by(rows, tokens.tokens), tokens.query)
    torch.testing.assert_close(head.head(tokens, prompt, "image"), encoder.head(moved, prefix, "image"))
    assert not torch.allclose(encoder.head(tokens, prefix, "image"), encoder.head(moved, prefix, "image"))
    per_sample = torch.stack([prompt, 2 * prompt, prompt, prompt, prompt])  # one for each sample
    z = head.head(tokens, per_sample, "image")
    torch.testing.assert_close(z[:1], head.head(tokens[:1], prompt, "image"))
    torch.testing.assert_close(z[1:2], head.head(tokens[1:2], 2 * prompt, "image"))


def test_a_clips_pair_is_the_sum_of_its_cells_and_its_frames():
    encoder, tokens = Clips(), tokens_of(2, 8)
    head = TokenScaleShiftHead(encoder, 3, True)
    prompt = torch.randn(head.prompt_size(tokens, "video"), generator=torch.Generator().manual_seed(0))
    prefix, rows = head.unpack(prompt, "video", WIDTH)
    assert rows.shape == (4 + 2, 2 * WIDTH)
    positions = torch.stack([rows[cell] + rows[4 + frame] for frame in range(2) for cell in range(4)])
    moved = Tokens(moved_by(positions, tokens.tokens), tokens.query)
    torch.testing.assert_close(head.head(tokens, prompt, "video"), encoder.head(moved, prefix, "video"))


def test_longer_texts_make_the_prompt_longer_and_still_longer_ones_get_nothing_there():
    bank, generator = TokenScaleShiftBank(ToyEncoder(), 3, True), torch.Generator().manual_seed(0)
    bank.reserve(tokens_of(2, 5), "text")
    prompt = bank.prompts["text"] = bank.fresh("text", generator) + 1
    bank.reserve(tokens_of(2, 4), "text")
    assert bank.prompts["text"] is prompt
    bank.reserve(tokens_of(2, 7), "text")
    assert bank.prompts["text"].shape == (len(prompt) + 2 * 2 * WIDTH,)
    assert torch.equal(bank.prompts["text"][: len(prompt)], prompt)
    longer, rows = tokens_of(2, 9), bank.head.unpack(prompt, "text", WIDTH)[1]
    moved = longer.tokens.clone()
    moved[:, :5] = moved_by(rows, moved[:, :5])
    prefix = bank.head.unpack(prompt, "text", WIDTH)[0]
    want = bank.head.encoder.head(Tokens(moved, longer.query), prefix, "text")
    torch.testing.assert_close(bank.head.head(longer, prompt, "text"), want)


def test_texts_have_scales_and_shifts_only_where_asked_for():
    tokens, sizes = tokens_of(2, 7), {}
    for text_scale_shift in (True, False):
        head = TokenScaleShiftHead(ToyEncoder(), 3, True, text_scale_shift)
        sizes[text_scale_shift] = head.prompt_size(tokens, "text") - head.prefix("text").numel()
        assert head.prompt_size(tokens, "image") - head.prefix("image").numel() == 7 * 2 * WIDTH
    assert sizes == {True: 7 * 2 * WIDTH, False: 0}


def test_the_parts_of_a_prompt_are_copies_and_make_it_whole_again():
    head = TokenScaleShiftHead(ToyEncoder(), 3, True)
    prompt = torch.randn(head.prompt_size(tokens_of(2, 4), "image"), generator=torch.Generator().manual_seed(3))
    prefix, rows = head.split(prompt, "image")
    assert prefix.numel() == head.prefix("image").numel() and torch.equal(torch.cat([prefix, rows]), prompt)
    prefix += 1
    assert not torch.equal(torch.cat([prefix, rows]), prompt)


def test_prompts_for_another_grid_lend_their_prefix_alone():
    bank, generator = TokenScaleShiftBank(Clips(), 3, True), torch.Generator().manual_seed(0)
    for modality, positions in (("image", 16), ("depth", 16), ("video", 8)):
        bank.reserve(tokens_of(2, positions), modality)
        bank.prompts[modality] = bank.fresh(modality, generator) + 1
    names, weight = ["image", "depth", "video"], torch.tensor([0.25, 0.25, 0.5])
    prefix, rows = bank.head.unpack(bank.blend("image", weight, names), "image", WIDTH)
    mean = sum(w * bank.prompts[m][: prefix.numel()] for m, w in zip(names, weight)).view(prefix.shape)
    torch.testing.assert_close(prefix, mean)
    torch.testing.assert_close(rows, torch.full((16, 2 * WIDTH), 0.5))
    never_met = bank.blend("audio", weight, names)
    torch.testing.assert_close(never_met, mean.flatten())
    assert bank.head.head(tokens_of(2, 16), never_met, "audio").isfinite().all()


def test_without_scales_and_shifts_and_from_before_they_existed_the_prompt_is_the_prefix():
    encoder, tokens = ToyEncoder(), tokens_of(3, 16)
    bank = TokenScaleShiftBank(encoder, 3, False)
    bank.reserve(tokens, "image")
    old = torch.randn(2, 2, 3, WIDTH, generator=torch.Generator().manual_seed(0))
    assert bank.fresh("image", torch.Generator()).shape == (old.numel(),)
    bank.load({"image": old})
    z = bank.head.head(tokens, bank.prompts["image"], "image")
    torch.testing.assert_close(z, encoder.head(tokens, old, "image"))


@pytest.mark.parametrize("shape", [(), (5,), (2, 2, 3), (1, 10_000)])
def test_a_prompt_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="prompt of image: shape .* or more"):
        TokenScaleShiftBank(ToyEncoder(), 3, True).load({"image": torch.zeros(shape)})


def test_scales_and_shifts_learn_what_a_frozen_head_cannot_tell():
    """One half of the positions holds larger tokens; the bare head's mean over positions can't tell which half."""
    encoder, generator = ToyEncoder(), torch.Generator().manual_seed(1)
    label = torch.randint(2, (256,), generator=generator)
    x = torch.randn(256, 16, WIDTH, generator=generator)
    x[:, :8] += 2.0 * (label == 0)[:, None, None]
    x[:, 8:] += 2.0 * (label == 1)[:, None, None]
    tokens = Tokens(x, torch.zeros(256, 16))
    right = {}
    for scale_shift in (False, True):
        head = TokenScaleShiftHead(encoder, 3, scale_shift)
        prompt = (torch.randn(head.prompt_size(tokens, "image"), generator=generator) * 0.02).requires_grad_(True)
        weight = torch.zeros(encoder.dim, 2, requires_grad=True)
        optimiser = torch.optim.Adam([prompt, weight], 0.02)
        for _ in range(60):
            loss = torch.nn.functional.cross_entropy(head.head(tokens[:128], prompt, "image") @ weight, label[:128])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            guess = (head.head(tokens[128:], prompt, "image") @ weight).argmax(1)
        right[scale_shift] = float((guess == label[128:]).float().mean())
    assert right[True] > 0.9 > 0.75 > right[False], right


def test_dropped_channels_are_missing_in_all_places_and_the_mean_stays():
    tokens, kept = tokens_of(2000, 4), torch.rand(2000, WIDTH, generator=torch.Generator().manual_seed(2)) >= 0.25
    x, positions = drop_channels(tokens, kept, 0.25).tokens, kept[:, None].expand(-1, 4, -1)
    assert torch.equal(x != 0, positions)
    torch.testing.assert_close(x[positions] * 0.75, tokens.tokens[positions])


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_training_changes_the_table_by_a_matrix_of_at_most_that_rank(rank):
    """Rank 0 trains every number. Targets for each number make the change of full rank possible."""
    bank, generator = TokenScaleShiftBank(ToyEncoder(), 3, True), torch.Generator().manual_seed(0)
    bank.reserve(tokens_of(2, 16), "image")
    start = torch.randn(bank.sizes["image"], generator=generator)
    units = torch.tensor([[0.5, 2.0], [3.0, 4.0]])
    trained = PromptInTraining(bank.head, start, "image", width=WIDTH, rank=rank, generator=generator, units=units)
    torch.testing.assert_close(trained(), start)
    wanted, kept = torch.randn(len(start), generator=generator), start.clone()
    groups = [([trained.prefix], 0.05), (trained.pairs, 0.05)]
    train_groups(groups, 60, lambda step: (trained() - wanted).square().sum(), None, lambda n: None, generator)
    assert torch.equal(start, kept)
    change = bank.head.unpack((trained() - start).detach(), "image", WIDTH)[1]
    sizes = torch.linalg.svdvals(change)
    assert int((sizes > 1e-4 * sizes[0]).sum()) == (rank or 16) and sizes[0] > 0.1
    assert len(trained.pairs) == (2 if rank else 1)


def test_a_step_moves_keys_and_values_of_a_block_by_their_units():
    """Adam's first step has the size of the rate for every parameter."""
    bank, generator = TokenScaleShiftBank(ToyEncoder(), 3, True), torch.Generator().manual_seed(0)
    bank.reserve(tokens_of(2, 16), "image")
    start, units = torch.zeros(bank.sizes["image"]), torch.tensor([[0.5, 2.0], [3.0, 4.0]])
    trained = PromptInTraining(bank.head, start, "image", width=WIDTH, rank=2, generator=generator, units=units)
    train_groups([([trained.prefix], 0.1)], 1, lambda step: trained().sum(), None, lambda n: None, generator)
    prefix = bank.head.unpack(trained(), "image", WIDTH)[0]
    torch.testing.assert_close(prefix, -0.1 * units[:, :, None, None].expand(prefix.shape))


def test_the_first_direction_gains_all_channels_alike():
    bank, generator = TokenScaleShiftBank(ToyEncoder(), 3, True), torch.Generator().manual_seed(0)
    bank.reserve(tokens_of(2, 16), "image")
    start = torch.zeros(bank.sizes["image"])
    trained = PromptInTraining(bank.head, start, "image", width=WIDTH, rank=2, generator=generator)
    trained.pairs[0][3, 0] = 0.7
    pairs = bank.head.unpack(trained(), "image", WIDTH)[1]
    assert torch.equal(pairs[3, WIDTH:], torch.full((WIDTH,), 0.7)) and pairs.count_nonzero() == WIDTH


def test_a_table_is_brought_to_another_grid_and_places_keep_their_meaning():
    bank, generator = TokenScaleShiftBank(Clips(), 3, True, regrid=True), torch.Generator().manual_seed(0)
    for modality, positions in (("image", 16), ("video", 8)):
        bank.reserve(tokens_of(2, positions), modality)
        bank.prompts[modality] = bank.fresh(modality, generator)
    split = bank.head.prefix("image").numel()
    cells = bank.prompts["image"][split:].view(4, 4, 2 * WIDTH)
    cells[:, 2:] = 1.0  # the right half
    pairs = bank.head.unpack(bank.prompt_for("image", "video"), "video", WIDTH)[1]
    assert pairs.shape == (4 + 2, 2 * WIDTH)
    left, right = pairs[[0, 2]], pairs[[1, 3]]
    assert (right > 0.8).all() and (left < 0.2).all() and not pairs[4:].any()
    back = bank.head.unpack(bank.prompt_for("video", "image"), "image", WIDTH)[1]
    assert back.shape == (16, 2 * WIDTH) and not back.any()
    assert torch.equal(bank.prompt_for("image", "image"), bank.prompts["image"])
    again = TokenScaleShiftBank(Clips(), 3, True, regrid=True)
    again.load(bank.prompts, bank.widths, bank.sizes)
    assert torch.equal(again.prompt_for("image", "video"), bank.prompt_for("image", "video"))
