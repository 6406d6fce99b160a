"""The bank of prompts, and the blend of them that a sample gets."""

import pytest
import torch

from mmcl_fast.methods.shared.prompts import PromptBank
from tests.toy import ToyEncoder


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


def test_samples_that_resemble_a_modality_without_a_prompt_take_the_bare_head():
    bank = PromptBank(ToyEncoder(), 3)
    names = ["image", "text", "depth"]
    bank.prompts = {m: torch.zeros(2, 2, 3, 16) for m in ("text", "depth")}
    c = torch.tensor([[0.4, 0.5, 0.1], [0.1, 0.0, 0.9]])
    assert bank.bare_rows("audio", c, names).tolist() == [True, False]  # text is of another tower
    assert bank.bare_rows("text", c, names) is None
    bank.prompts["image"] = bank.prompts["depth"]
    assert bank.bare_rows("image", c, names) is None
