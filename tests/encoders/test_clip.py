import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("transformers", reason="the clip extra is not installed")

from mmcl_fast.encoders.clip import ClipEncoder
from mmcl_fast.encoders.clip_layers import attend
from mmcl_fast.errors import EncoderError
from mmcl_fast.media import decode
from mmcl_fast.media.registry import MODALITIES
from mmcl_fast.media.spec import TextSpec, spec_from_dict
from tests.tiny_models import OPENAI_MEAN, write_clip, write_siglip

TEXTS = ["A Dog", "", "two words, here", "a sentence that is far too long for sixteen tokens"]
KINDS = ("clip", "old_clip", "siglip")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {
        "clip": write_clip(root / "clip"),
        "old_clip": write_clip(root / "old_clip", old_end=True),
        "siglip": write_siglip(root / "siglip"),
    }


@pytest.fixture(scope="module")
def encoders(folders):
    return {kind: ClipEncoder(folder, prompt_blocks=2, frames=4) for kind, folder in folders.items()}


def pictures(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def prefix_for(encoder, modality, length=3, batch=()):
    shape = (*batch, encoder.num_prompted_blocks, 2, length, encoder.prefix_width(modality))
    return (pictures(*shape, seed=1) * 2).requires_grad_(True)


def transformers_features(folder, pixels=None, texts=None):
    """Return the features that transformers computes with its own model, tokenizer and padding."""
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        if pixels is not None:
            return model.get_image_features(pixels).pooler_output
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
        if model.config.model_type == "siglip":
            texts = [text.lower() for text in texts]
            ids = tokenizer(texts, padding="max_length", truncation=True, max_length=16, return_tensors="pt")
            return model.get_text_features(ids["input_ids"]).pooler_output
        return model.get_text_features(
            **tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors="pt")
        ).pooler_output


@pytest.mark.parametrize("blocks", [1, 2, 3, "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_without_a_prefix_it_is_transformers(folders, kind, blocks):
    encoder = ClipEncoder(folders[kind], prompt_blocks=blocks)
    pixels = pictures(3, 3, 48, 48)
    image = transformers_features(folders[kind], pixels=pixels)
    text = transformers_features(folders[kind], texts=TEXTS)
    for modality in ("image", "audio", "depth", "video"):
        z = encoder.head(encoder.trunk(pixels[:, None], modality), None, modality)
        torch.testing.assert_close(z, image, rtol=1e-5, atol=1e-5)
    tokens = encoder.trunk(TEXTS, "text")
    empty = torch.zeros(encoder.num_prompted_blocks, 2, 0, encoder.prefix_width("text"))
    for prefix in (None, empty):
        torch.testing.assert_close(encoder.head(tokens, prefix, "text"), text, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(encoder.text(TEXTS), F.normalize(text, dim=1), rtol=1e-5, atol=1e-5)
    assert encoder.num_prompted_blocks == (3 if blocks == "all" else blocks) and image.shape[1] == encoder.dim
    assert encoder.logit_scale == pytest.approx(9.974182)


def test_all_blocks_leave_the_patch_embedding_to_the_trunk(folders):
    from transformers import SiglipModel

    encoder = ClipEncoder(folders["siglip"], prompt_blocks="all")
    pixels = pictures(2, 3, 48, 48)
    embedded = SiglipModel.from_pretrained(folders["siglip"]).vision_model.embeddings(pixels)
    torch.testing.assert_close(encoder.trunk(pixels[:, None], "image").tokens, embedded.detach())


@pytest.mark.parametrize("modality", ["image", "video", "text"])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_gradient_reaches_the_prefix_only(encoders, kind, modality):
    encoder = encoders[kind]
    batch = TEXTS[:2] if modality == "text" else pictures(2, encoder.spec(modality).frames, 3, 48, 48)
    tokens = encoder.trunk(batch, modality)
    prefix = prefix_for(encoder, modality)
    z = encoder.head(tokens, prefix, modality)
    (z * pictures(*z.shape, seed=2)).sum().backward()
    assert (prefix.grad.abs().amax((1, 2, 3)) > 0).all()
    assert (z - encoder.head(tokens, None, modality)).abs().max() > 1e-3
    assert not tokens.tokens.requires_grad and not any(
        p.requires_grad or p.grad is not None for p in encoder._model.parameters()
    )
    each = prefix_for(encoder, modality, batch=(2,)).detach()
    each[0] = prefix.detach()
    per_sample = encoder.head(tokens, each, modality)
    torch.testing.assert_close(per_sample[0], z[0].detach(), rtol=1e-4, atol=1e-5)
    alone = encoder.head(tokens[1:], each[1], modality)
    torch.testing.assert_close(per_sample[1:], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_the_formula(encoders, causal):
    attn = encoders["clip"]._text.upper[0].self_attn
    x, prefix = pictures(2, 5, 24), pictures(2, 3, 24, seed=1)
    q, k, v = (p(x).detach() for p in (attn.q_proj, attn.k_proj, attn.v_proj))
    rows = torch.empty(2, 5, 24)
    for b in range(2):
        for i in range(5):
            for s in (slice(0, 12), slice(12, 24)):
                seen = i + 1 if causal else 5
                keys = torch.cat([prefix[0, :, s], k[b, :seen, s]])
                values = torch.cat([prefix[1, :, s], v[b, :seen, s]])
                rows[b, i, s] = (q[b, i, s] @ keys.T / 12**0.5).softmax(-1) @ values
    torch.testing.assert_close(attend(attn, x, prefix, causal), attn.out_proj(rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_does_not_depend_on_its_batch(encoders, kind):
    encoder = encoders[kind]
    prefix = prefix_for(encoder, "text").detach()
    together = encoder.trunk(TEXTS, "text")
    for i, text in enumerate(TEXTS):
        alone = encoder.trunk([text], "text")
        torch.testing.assert_close(alone.query[0], together.query[i])
        z, of_all = encoder.head(alone, prefix, "text"), encoder.head(together, prefix, "text")
        torch.testing.assert_close(z[0], of_all[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_frames_pass_the_trunk_alone_and_their_order_counts(encoders, kind):
    encoder = encoders[kind]
    clip = pictures(2, 4, 3, 48, 48)
    tokens, backward = encoder.trunk(clip, "video"), encoder.trunk(clip.flip(1), "video")
    per_frame = 4 * 4 + (kind == "clip")  # 6 x 6 patches, averaged to 4 x 4
    assert tokens.tokens.shape == (2, 4 * per_frame, 32) and tokens.mask is None
    torch.testing.assert_close(tokens.query, backward.query)
    frames = torch.stack([encoder.trunk(clip[:, i : i + 1], "image").query for i in range(4)])
    torch.testing.assert_close(tokens.query, frames.mean(0))
    assert (encoder.head(tokens, None, "video") - encoder.head(backward, None, "video")).abs().max() > 1e-4
    still = clip[:, :1].expand(-1, 4, -1, -1, -1)
    first, last = encoder.trunk(still, "video").tokens.unflatten(1, (4, -1))[:, [0, 3]].unbind(1)
    assert (first - last).abs().amax(-1).min() > 0.01  # the embedding alone tells every token's time


def test_grid_never_makes_a_picture_look_like_frames(tmp_path):
    encoder = ClipEncoder(write_clip(tmp_path, size=26, patch=2, vision_layers=1), prompt_blocks=1)
    z = encoder.head(encoder.trunk(pictures(1, 10, 3, 26, 26), "video"), None, "video")
    image = pictures(1, 1, 3, 26, 26)  # 1 + 13 x 13 = 170 tokens = 10 frames of 1 + 4 x 4
    torch.testing.assert_close(
        encoder.head(encoder.trunk(image, "video"), None, "video"),
        encoder.head(encoder.trunk(image, "image"), None, "image"),
    )
    assert encoder._vision.grid == 5 and z.shape == (1, 20)


def test_query_is_the_towers_mean_in_its_own_slots(encoders):
    encoder = encoders["clip"]
    image, text = encoder.trunk(pictures(2, 1, 3, 48, 48), "image"), encoder.trunk(TEXTS, "text")
    assert encoder.query_dim == 32 + 24
    assert (encoder.tower("depth"), encoder.tower("text")) == ("vision", "text")
    torch.testing.assert_close(image.query[:, :32], image.tokens[:, 1:].mean(1))
    torch.testing.assert_close(text.query[2, 32:], text.tokens[2, text.mask[2]].mean(0))
    assert image.query[:, 32:].abs().max() == 0 and text.query[:, :32].abs().max() == 0
    assert text.mask.sum(1).tolist() == [6, 2, 15, 16]  # begin and end tokens with the letters, cut at 16


def test_bfloat16_stays_close_and_gives_float32(folders):
    one = ClipEncoder(folders["clip"], prompt_blocks=1)
    two = ClipEncoder(folders["clip"], prompt_blocks=1, dtype=torch.bfloat16)
    pixels = pictures(2, 1, 3, 48, 48)
    z, low = (e.head(e.trunk(pixels, "image"), prefix_for(e, "image"), "image") for e in (one, two))
    assert low.dtype == two.trunk(pixels, "image").query.dtype == torch.float32
    assert F.cosine_similarity(z, low).min() > 0.99 and one.fingerprint != two.fingerprint


def test_specs_come_from_the_models_files(folders, encoders, tmp_path):
    clip, siglip = encoders["clip"], encoders["siglip"]
    image = clip.spec("image")
    assert (image.size, image.resize, image.interpolation) == (48, "crop", "bicubic")
    assert image.mean == tuple(OPENAI_MEAN) and clip.spec("audio").resize == "squash"
    assert [clip.spec(m).frames for m in ("video", "depth")] == [4, 1] and clip.spec("text") == TextSpec()
    assert (siglip.spec("image").resize, siglip.spec("image").interpolation) == ("squash", "bilinear")
    assert all(spec_from_dict(clip.spec(m).to_dict()) == clip.spec(m) for m in MODALITIES)
    legacy = ClipEncoder(write_clip(tmp_path, size=16, crop_size=16, do_normalize=False), prompt_blocks=1)
    assert legacy.spec("image").resize == "crop" and legacy.spec("image").std == (1.0, 1.0, 1.0)


def test_decoded_picture_is_what_the_models_processor_makes(folders, encoders, tmp_path):
    Image = pytest.importorskip("PIL.Image")
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    picture = Image.effect_mandelbrot((90, 70), (-2, -1.5, 1, 1.5), 60).convert("RGB").rotate(20)
    picture.save(tmp_path / "picture.png")
    ours = decode(tmp_path / "picture.png", "image", encoders["clip"].spec("image"))
    processor = CLIPImageProcessorPil.from_pretrained(folders["clip"])
    theirs = processor(picture, return_tensors="pt")["pixel_values"]
    assert ours.shape == theirs.shape and (ours - theirs).abs().mean() < 0.05


def test_fingerprint_tells_weights_specs_and_cuts_apart(folders, tmp_path):
    base = ClipEncoder(folders["clip"], prompt_blocks=2)
    assert base.fingerprint == ClipEncoder(folders["clip"], prompt_blocks=2).fingerprint
    others = [
        ClipEncoder(folders["clip"], prompt_blocks=1),
        ClipEncoder(folders["clip"], prompt_blocks=2, frames=3),
        ClipEncoder(write_clip(tmp_path / "seed", seed=1), prompt_blocks=2),
        ClipEncoder(write_clip(tmp_path / "mean", image_mean=[0.5] * 3), prompt_blocks=2),
    ]
    assert len({base.fingerprint, *(e.fingerprint for e in others)}) == 5


def broken(folder, target, name, content=None):
    """A copy of a model folder with one file removed or overwritten."""
    shutil.copytree(folder, target)
    (target / name).unlink() if content is None else (target / name).write_text(content)
    return target


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("model.safetensors", None, "no weights (model.safetensors)"),
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1", "weights can't be read"),
        ("tokenizer.json", None, "no tokenizer (tokenizer.json)"),
        ("tokenizer.json", "{", "tokenizer can't be read"),
        ("preprocessor_config.json", None, "no image settings (preprocessor_config.json)"),
        ("preprocessor_config.json", "{}", "image_mean = None"),
        ("config.json", None, "no config.json"),
        ("config.json", "{", "config.json can't be read"),
        ("config.json", '{"model_type": "bert"}', "model_type is 'bert'"),
        ("config.json", '{"model_type": "siglip2"}', "google/siglip2-base-patch16-224"),
    ],
)
def test_a_folder_that_lacks_something_is_named(folders, tmp_path, name, content, words):
    folder = broken(folders["clip"], tmp_path / "model", name, content)
    with pytest.raises(EncoderError) as fault:
        ClipEncoder(folder)
    message = str(fault.value)
    assert words in message and str(folder) in message and "\n" not in message


def test_weights_of_one_tower_only_are_refused(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(folders["clip"], folder)
    vision = {k: v for k, v in load_file(folder / "model.safetensors").items() if "text" not in k}
    save_file(vision, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match="the weights lack .* tensors, the first is text_model"):
        ClipEncoder(folder)


def test_siglip_without_pooling_head_is_refused(folders, tmp_path):
    config = json.loads((folders["siglip"] / "config.json").read_text())
    config["vision_config"]["vision_use_head"] = False
    with pytest.raises(EncoderError, match="no pooling head"):
        ClipEncoder(broken(folders["siglip"], tmp_path / "model", "config.json", json.dumps(config)))


@pytest.mark.parametrize("blocks", [0, 4, -1, "some"])
def test_a_cut_outside_the_model_is_refused(folders, blocks):
    with pytest.raises(EncoderError, match='has 3 layers, give 1 to 3 or "all"'):
        ClipEncoder(folders["clip"], prompt_blocks=blocks)


def test_wrong_batches_prefixes_and_modalities_are_named(encoders):
    encoder = encoders["clip"]
    with pytest.raises(EncoderError, match=r"\[2, 3, 48, 48\]: give \[B, F, 3, 48, 48\]"):
        encoder.trunk(pictures(2, 3, 48, 48), "image")
    with pytest.raises(EncoderError, match=r"\[1, 2, 3, 32\]: give \[2, 2, L, 32\]"):
        encoder.head(encoder.trunk(pictures(1, 1, 3, 48, 48), "image"), torch.zeros(1, 2, 3, 32), "image")
    with pytest.raises(EncoderError, match="no modality 'smell'"):
        encoder.spec("smell")
    assert encoder.text([]).shape == (0, 20)


@pytest.mark.parametrize("name", ["no/such/folder", "./nothing", "/nothing"])
def test_a_folder_that_is_not_there_is_no_hub_name(name):
    with pytest.raises(EncoderError, match=f"{name}: no such folder"):
        ClipEncoder(name)


def in_a_fresh_process(code, **environment):
    root = str(Path(__file__).resolve().parents[2])
    paths = environment.pop("path", None), root, os.environ.get("PYTHONPATH")
    path = os.pathsep.join(p for p in paths if p)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


LOAD = """
from mmcl_fast.encoders.clip import ClipEncoder
from mmcl_fast.errors import EncoderError
try:
    ClipEncoder({name!r})
except EncoderError as fault:
    print(fault)
"""


def test_a_hub_that_cannot_be_reached_says_what_to_do(tmp_path):
    output = in_a_fresh_process(
        LOAD.format(name="openai/clip-vit-base-patch32"), HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path)
    )
    assert output.startswith("openai/clip-vit-base-patch32: config.json can't be fetched from the hub (")
    assert "give its folder" in output and "HF_HUB_OFFLINE" in output and "\n" not in output


def test_a_torchvision_of_another_torch_is_recognised(folders, tmp_path):
    for package in ("torchvision", "torchaudio"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise OSError('libc10_cuda.so: cannot open')")
        (tmp_path / f"{package}-0.26.0.dist-info").mkdir()
        (tmp_path / f"{package}-0.26.0.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.26.0\n"
        )
    output = in_a_fresh_process(LOAD.format(name=str(folders["clip"])), path=str(tmp_path))
    assert "pip uninstall torchvision" in output and "\n" not in output


def test_missing_transformers_says_how_to_get_it_and_the_module_imports_without():
    output = in_a_fresh_process("import sys\nsys.modules['transformers'] = None\n" + LOAD.format(name="a/b"))
    assert "pip install 'mmcl-fast[clip]'" in output
    loaded = in_a_fresh_process("import sys, mmcl_fast.encoders.clip\nprint('transformers' in sys.modules)")
    assert loaded == "False"


def test_siglip_1_uses_its_own_tokenizer_or_says_what_it_needs(tmp_path):
    try:
        folder = write_siglip(tmp_path / "model", sentencepiece=True)
    except ImportError:
        folder = write_siglip(tmp_path / "model")
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": "SiglipTokenizer"}))
        with pytest.raises(EncoderError, match="pip install sentencepiece protobuf"):
            ClipEncoder(folder)
        return
    encoder = ClipEncoder(folder, prompt_blocks=1)
    theirs = F.normalize(transformers_features(folder, texts=TEXTS), dim=1)
    torch.testing.assert_close(encoder.text(TEXTS), theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(encoder.text(["A dog!"]), encoder.text(["a dog"]))
