"""Prompts of two parts: a prefix, and a scale and shift for each of the trunk's tokens."""

from __future__ import annotations

import pytest
import torch

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.media.spec import VisualSpec
from mmcl_fast.methods.shared.token_scale_shift import TokenScaleShiftBank, TokenScaleShiftHead, drop_channels
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
