import copy

import pytest
import torch
from torch import nn

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.encoders.prompted_blocks import PostNormBlock, PreNormBlock
from mmcl_fast.errors import ConfigError
from mmcl_fast.methods.shared.low_rank import LowRankHead, WeightRows, find_weights
from tests.toy import WIDTH, ToyEncoder


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pictures(count=5, seed=0):
    return Tokens(randn(count, 4, WIDTH, seed=seed), torch.zeros(count, 48))


def texts():
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    return Tokens(randn(2, 4, WIDTH), torch.zeros(2, 48), mask)


def prepared(encoder, tokens, modality, layers="key_value"):
    """A head that knows which weights the samples pass, and a random update of them."""
    head = LowRankHead(encoder, layers, "inflora")
    moments = head.input_moments(tokens, None, modality)
    updates = {i: 0.1 * randn(head.weights[i].rows, head.weights[i].width, seed=i) for i in moments}
    return head, updates, head.flatten(encoder.tower(modality), updates)


def changed_copy(head, updates):
    """A copy of the encoder with W + dW written into its weights."""
    encoder = copy.deepcopy(head.encoder)
    parts = nn.ModuleList(encoder.trainable_modules())
    with torch.no_grad():
        for i, update in updates.items():
            row = 0
            for part in head.weights[i].parts:
                count = part.end - part.first
                weight = parts.get_parameter(f"{part.layer}.weight")
                weight[part.first : part.end] += update[row : row + count].to(weight.dtype)
                row += count
    return encoder


class Block(nn.Module):
    """The layers of a block of transformers' CLIP."""

    def __init__(self):
        super().__init__()
        self.self_attn, self.mlp = nn.Module(), nn.Module()
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self.self_attn, name, nn.Linear(4, 4))
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(4, 6), nn.Linear(6, 4)


def test_keys_and_values_of_every_kind_of_block_are_found():
    blocks = nn.ModuleList([PreNormBlock(4, 2, 6), PostNormBlock(4, 2, 6, 1e-5), Block()])
    assert [group.parts for group in find_weights(blocks, "key_value")] == [
        (WeightRows("0.qkv", 4, 12),),
        (WeightRows("1.k", 0, 4), WeightRows("1.v", 0, 4)),
        (WeightRows("2.self_attn.k_proj", 0, 4), WeightRows("2.self_attn.v_proj", 0, 4)),
    ]


def test_all_layers_are_found_once_and_those_of_one_input_together():
    blocks = nn.ModuleList([PreNormBlock(4, 2, 6), PostNormBlock(4, 2, 6, 1e-5), Block()])
    found = find_weights(blocks, "all")
    rows = {part.layer: (part.first, part.end) for group in found for part in group.parts}
    assert rows == {name: (0, m.out_features) for name, m in blocks.named_modules() if isinstance(m, nn.Linear)}
    assert sum(len(group.parts) for group in found) == len(rows)
    together = [[part.layer for part in group.parts] for group in found if len(group.parts) > 1]
    assert together == [["1.q", "1.k", "1.v"], [f"2.self_attn.{name}_proj" for name in "qkv"]]
    assert {group.width for group in found if group.parts[0].layer.endswith(("down", "fc2"))} == {6}


@pytest.mark.parametrize("layers", ["key_value", "all"])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_z_is_that_of_an_encoder_with_changed_weights(layers, modality):
    tokens = texts() if modality == "text" else pictures()
    head, updates, flat = prepared(ToyEncoder(), tokens, modality, layers)
    assert len(updates) == (2 if layers == "key_value" else 8)  # of one tower's two blocks
    expected = changed_copy(head, updates).head(tokens, None, modality)
    torch.testing.assert_close(head.head(tokens, flat, modality), expected)
    assert not torch.allclose(expected, head.encoder.head(tokens, None, modality), atol=0.01)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_towers_of_transformers(kind, tmp_path):
    pytest.importorskip("transformers", reason="the clip extra is not installed")
    from mmcl_fast.encoders.clip import ClipEncoder
    from tests import tiny_models

    encoder = ClipEncoder(getattr(tiny_models, f"write_{kind}")(tmp_path / kind), prompt_blocks=2)
    for modality in ("image", "text"):
        spec = encoder.spec(modality)
        batch = ["a dog", "two words"] if modality == "text" else randn(2, *spec.shape)
        tokens = encoder.trunk(batch, modality)
        head, updates, flat = prepared(encoder, tokens, modality)
        assert [len(head.weights[i].parts) for i in updates] == [2, 2]
        expected = changed_copy(head, updates).head(tokens, None, modality)
        torch.testing.assert_close(head.head(tokens, flat, modality), expected)
        assert not torch.allclose(expected, encoder.head(tokens, None, modality), atol=1e-3)


def test_the_update_gets_the_gradient_of_the_weights():
    head, updates, flat = prepared(ToyEncoder(), pictures(), "image")
    head.head(pictures(), flat.requires_grad_(True), "image").square().sum().backward()
    encoder = changed_copy(head, updates)
    for module in encoder.trainable_modules():
        module.requires_grad_(True)
    encoder.head(pictures(), None, "image").square().sum().backward()
    blocks = encoder.trainable_modules()[:2]
    expected = torch.cat([block.qkv.weight.grad[WIDTH:].flatten() for block in blocks])
    torch.testing.assert_close(flat.grad, expected, rtol=1e-3, atol=1e-4)


def test_the_encoder_stays_as_it_is_also_after_an_error(monkeypatch):
    encoder = ToyEncoder()
    before = copy.deepcopy(nn.ModuleList(encoder.trainable_modules()).state_dict())
    head, _, flat = prepared(encoder, pictures(), "image")
    head.head(pictures(), flat, "image")
    with pytest.raises(RuntimeError):  # tokens of another width
        head.head(Tokens(randn(2, 4, WIDTH + 1), torch.zeros(2, 48)), flat, "image")
    with pytest.raises(RuntimeError):
        head.input_moments(Tokens(randn(2, 4, WIDTH + 1), torch.zeros(2, 48)), flat, "image")
    modules = nn.ModuleList(encoder.trainable_modules())
    assert all(torch.equal(before[name], value) for name, value in modules.state_dict().items())
    assert all(isinstance(p, nn.Parameter) and not p.requires_grad for p in modules.parameters())
    assert not any(m._forward_pre_hooks for m in modules.modules())


def test_weights_of_another_dtype_keep_it():
    encoder = ToyEncoder()
    head, updates, flat = prepared(encoder, pictures(), "image")
    for block in encoder.trainable_modules():
        block.qkv.to(torch.bfloat16)
        block.out.to(torch.bfloat16)
    z = head.head(pictures(), flat, "image")
    torch.testing.assert_close(z, changed_copy(head, updates).head(pictures(), None, "image"), rtol=0.02, atol=0.05)


def test_moments_are_those_of_the_inputs_of_real_tokens():
    encoder, tokens = ToyEncoder(), pictures(37)  # more than one batch of the pass
    head = LowRankHead(encoder, "key_value", "inflora")
    moments = head.input_moments(tokens, None, "image")
    first, second = encoder.layers["vision"]
    for position, x in zip(moments, (first.norm1(tokens.tokens), second.norm1(first(tokens.tokens)))):
        x = x.flatten(0, 1).double()
        torch.testing.assert_close(moments[position], x.T @ x / len(x), rtol=1e-5, atol=1e-6)
    some = texts()
    real = encoder.layers["text"][0].norm1(some.tokens[some.mask]).double()
    moments = head.input_moments(some, None, "text")
    torch.testing.assert_close(moments[2], real.T @ real / 4, rtol=1e-5, atol=1e-6)
    assert head.of_tower == {"vision": [0, 1], "text": [2, 3]}


def test_moments_follow_the_update():
    head, updates, flat = prepared(ToyEncoder(), pictures(), "image")
    first, second = changed_copy(head, updates).layers["vision"]
    x = second.norm1(first(pictures().tokens)).flatten(0, 1).double()
    moment = head.input_moments(pictures(), flat, "image")[1]
    torch.testing.assert_close(moment, x.T @ x / len(x), rtol=1e-5, atol=1e-6)


class Renamed(ToyEncoder):
    def trainable_modules(self):
        return [nn.Sequential(nn.Linear(WIDTH, WIDTH))]


class Frozen(ToyEncoder):
    trainable_modules = Encoder.trainable_modules


@pytest.mark.parametrize(
    ("encoder", "layers", "message"),
    [
        (Renamed, "key_value", 'layers = "key_value" finds no layer in toy; set method.options.layers = "all"'),
        (Frozen, "all", 'layers = "all" finds no layer in toy; it returns no linear layer from trainable_modules'),
    ],
)
def test_an_encoder_without_such_layers_is_named(encoder, layers, message):
    with pytest.raises(ConfigError, match=message):
        LowRankHead(encoder(), layers, "inflora")
    if encoder is Renamed:
        assert LowRankHead(encoder(), "all", "inflora").weights[0].size == WIDTH**2
