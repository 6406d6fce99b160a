"""Small CLIP and SigLIP models with random weights, written to a folder in Hugging Face format, offline.

Needs transformers. Each function returns the folder, which ``ClipEncoder`` and ``from_pretrained`` read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

OPENAI_MEAN, OPENAI_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,'-!?"


def write_clip(
    folder: Path,
    *,
    seed: int = 0,
    size: int = 48,
    patch: int = 8,
    vision_layers: int = 3,
    text_layers: int = 2,
    old_end: bool = False,
    **settings: Any,
) -> Path:
    """A CLIP: widths 32 (vision) and 24 (text), D = 20, 16 tokens of text, a byte-level tokenizer.

    old_end: write the wrong ``eos_token_id`` 2 of configs made before 2023.
    settings: replace those in preprocessor_config.json.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    symbols = sorted(ByteLevel.alphabet())
    names = symbols + [s + "</w>" for s in symbols] + ["<|startoftext|>", "<|endoftext|>"]
    vocab = {name: i for i, name in enumerate(names)}
    end = len(vocab) - 1
    config = CLIPConfig(
        projection_dim=20,
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "image_size": size,
            "patch_size": patch,
        },
        text_config={
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": text_layers,
            "num_attention_heads": 2,
            "max_position_embeddings": 16,
            "vocab_size": len(vocab),
            "bos_token_id": end - 1,
            "eos_token_id": 2 if old_end else end,
            "pad_token_id": end,
        },
    )
    CLIPTokenizer(vocab=vocab, merges=[], model_max_length=16).save_pretrained(folder)
    return _write(
        CLIPModel,
        config,
        folder,
        seed,
        {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": size},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": size, "width": size},
            "do_normalize": True,
            "image_mean": OPENAI_MEAN,
            "image_std": OPENAI_STD,
            **settings,
        },
    )


def write_siglip(
    folder: Path,
    *,
    seed: int = 0,
    size: int = 48,
    patch: int = 8,
    vision_layers: int = 2,
    text_layers: int = 3,
    sentencepiece: bool = False,
    **settings: Any,
) -> Path:
    """A SigLIP: width 32 = D, 16 tokens of text, with the Gemma tokenizer of SigLIP 2 at fixed resolution.

    sentencepiece: SigLIP 1's own tokenizer instead, trained on the spot (needs sentencepiece and protobuf).
    """
    from transformers import SiglipConfig, SiglipModel

    count = _write_spiece(folder) if sentencepiece else _write_gemma(folder)
    config = SiglipConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "image_size": size,
            "patch_size": patch,
        },
        text_config={
            "hidden_size": 32,
            "intermediate_size": 40,
            "num_hidden_layers": text_layers,
            "num_attention_heads": 2,
            "max_position_embeddings": 16,
            "vocab_size": count,
            "projection_size": 32,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        },
    )
    return _write(
        SiglipModel,
        config,
        folder,
        seed,
        {
            "image_processor_type": "SiglipImageProcessor",
            "resample": 2,
            "do_normalize": True,
            "size": {"height": size, "width": size},
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            **settings,
        },
    )


def _write(kind: type, config: Any, folder: Path, seed: int, pictures: dict[str, Any]) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
        for _name, value in model.named_parameters():  # so that biases and norms count in comparisons
            if value.dim() == 1:
                value.data.add_(torch.randn_like(value) * 0.1)
        model.logit_scale.data.fill_(2.3)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures, indent=2))
    return folder


def _write_gemma(folder: Path) -> int:
    from transformers import GemmaTokenizer

    byte_names = [f"<0x{i:02X}>" for i in range(256)]
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS, *byte_names]
    GemmaTokenizer(
        vocab={name: i for i, name in enumerate(names)}, merges=[], add_bos_token=False, add_eos_token=True
    ).save_pretrained(folder)
    return len(names)


def _write_spiece(folder: Path) -> int:
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    words = " ".join(f"{a}{b}{c}" for a in LETTERS[:12] for b in "aeiou" for c in LETTERS[12:24])
    with (folder / "spiece.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([words, LETTERS]),
            model_writer=file,
            vocab_size=80,
            model_type="unigram",
            character_coverage=1.0,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
            num_threads=1,
        )
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "SiglipTokenizer", "model_max_length": 16, "model_input_names": ["input_ids"]})
    )
    return 80
