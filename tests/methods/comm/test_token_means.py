"""Mean trunk tokens of classes, and what a damaged state of them says."""

import pytest
import torch

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods.comm.token_means import TokenMeans
from tests.methods.comm.test_memory import randn


def masked(count, positions, seed, lengths):
    mask = torch.arange(positions) < torch.tensor(lengths).unsqueeze(1)
    return Tokens(randn(count, positions, 6, seed=seed), torch.zeros(count, 3), mask)


def test_means_are_over_the_samples_that_have_a_token_and_classes_met_again_are_merged():
    means = TokenMeans()
    first, second = masked(4, 3, 0, [3, 2, 1, 3]), masked(2, 5, 1, [5, 4])
    means.add("text", [7, 9], first, torch.tensor([7, 7, 9, 9]))
    means.add("text", [9, 11], second, torch.tensor([9, 11]))
    assert means.classes == {"text": [7, 9, 11]}
    nine = [first.tokens[2:4], second.tokens[:1]]
    ids, others = means.others("text", [7], True)
    assert ids == [9, 11] and others is not None and others.tokens.dtype == torch.bfloat16
    want = torch.stack(
        [
            torch.stack([nine[0][0, 0], nine[0][1, 0], nine[1][0, 0]]).mean(0),
            torch.stack([nine[0][1, 1], nine[1][0, 1]]).mean(0),
            torch.stack([nine[0][1, 2], nine[1][0, 2]]).mean(0),
            nine[1][0, 3],
            nine[1][0, 4],
        ]
    )
    torch.testing.assert_close(others.tokens[0].float(), want, rtol=0.02, atol=0.02)
    assert others.mask is not None and others.mask.tolist() == [[True] * 5, [True] * 4 + [False]]
    assert means.others("text", [7, 9, 11], True) == ([], None) and means.others("image", [], False) == ([], None)


def test_a_state_comes_back_and_one_that_does_not_fit_is_refused():
    means = TokenMeans()
    x = Tokens(randn(4, 3, 6), torch.zeros(4, 3))
    means.add("image", [1, 2], x, torch.tensor([1, 1, 2, 2]))
    tensors, values = means.state()
    again = TokenMeans()
    again.load_state(tensors, values)
    assert again.state()[1] == values and all(torch.equal(tensors[k], v) for k, v in again.state()[0].items())
    for key, damaged in (
        ("mean/image", tensors["mean/image"][:1]),
        ("mean/image", tensors["mean/image"][0]),
        ("mean/image", tensors["mean/image"].int()),
        ("count/image", tensors["count/image"][:, :2]),
        ("count/image", tensors["count/image"].int()),
    ):
        with pytest.raises(ValueError, match="mean tokens of image"):
            TokenMeans().load_state({**tensors, key: damaged}, values)
    for ids in ([1], [1, 1], [1, 2, 3]):
        with pytest.raises(ValueError, match="mean tokens of image"):
            TokenMeans().load_state(tensors, {"image": ids})
    with pytest.raises(KeyError):
        TokenMeans().load_state({}, values)


def test_the_mask_is_kept_where_the_trunk_gives_one() -> None:
    # Texts of one length: every token is real, and the text head needs the mask all the same.
    means = TokenMeans()
    means.add(
        "text", [0], Tokens(torch.ones(2, 3, 4), torch.ones(2, 1), torch.ones(2, 3, dtype=torch.bool)), torch.zeros(2)
    )
    masked, plain = means.others("text", [], True)[1], means.others("text", [], False)[1]
    assert masked is not None and masked.mask is not None and masked.mask.all()
    assert plain is not None and plain.mask is None
