"""Embeddings are computed again only where something that they depend on changed."""

import gc

import torch

from mmcl_fast.methods.shared.embedding import BATCH, EmbeddingCache
from tests.toy import ToyEncoder


def count_head_rows(encoder, monkeypatch):
    """A list that gets the number of samples of each head pass from now on."""
    passes, head = [], encoder.head

    def count(tokens, prefix, modality):
        passes.append(len(tokens))
        return head(tokens, prefix, modality)

    monkeypatch.setattr(encoder, "head", count)
    return passes


def test_z_is_computed_again_only_where_a_prompt_or_a_share_changed(monkeypatch):
    encoder, g = ToyEncoder(), torch.Generator().manual_seed(0)
    tokens = encoder.trunk(torch.rand(70, 1, 3, 8, 8, generator=g), "image")
    prompts = {m: torch.randn(2, 2, 3, 16, generator=g) for m in ("image", "depth")}
    shares = torch.eye(2)[torch.arange(70) % 2].contiguous()
    shares[0] = torch.tensor([0.25, 0.75])
    cache, seen = EmbeddingCache(), count_head_rows(encoder, monkeypatch)

    def check(prompts, shares, slot, passes):
        seen.clear()
        z = cache.embed(encoder, tokens, "image", prompts, shares, slot)
        assert len(seen) == passes and set(seen) <= {BATCH}
        assert torch.equal(z, EmbeddingCache().embed(encoder, tokens, "image", prompts, shares, slot))

    check(prompts, shares, "agnostic", 3)
    check(prompts, shares, "agnostic", 0)
    check(prompts, shares, "given", 0)  # another slot, the same samples
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


def test_embeddings_are_dropped_with_the_tokens():
    encoder, cache = ToyEncoder(), EmbeddingCache()
    tokens = encoder.trunk(torch.rand(2, 1, 3, 8, 8), "image")
    cache.embed_with_prompt(encoder, tokens, "image")
    assert len(cache._cached) == 1
    del tokens
    gc.collect()
    assert len(cache._cached) == 0


def test_while_tracing_nothing_is_kept_and_all_samples_are_one_batch(monkeypatch):
    encoder, cache = ToyEncoder(), EmbeddingCache()
    tokens = encoder.trunk(torch.rand(BATCH + 3, 1, 3, 8, 8), "image")
    z = cache.embed_with_prompt(encoder, tokens, "image")
    seen = count_head_rows(encoder, monkeypatch)
    with cache.trace():
        torch.testing.assert_close(cache.embed_with_prompt(encoder, tokens, "image"), z)
        cache.embed(encoder, tokens, "image", {}, torch.ones(len(tokens), 0), "agnostic")
    assert seen == [BATCH + 3] * 2 and not cache.tracing
    cache.embed_with_prompt(encoder, tokens, "image")
    assert len(seen) == 2
