"""MiniLM-L6 sentence encoder (Wang et al. 2020, arXiv 2002.10957; all-MiniLM-L6-v2), cut into trunk and head."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcl_fast.encoders.prompted_blocks import PostNormBlock, block_prefix
from mmcl_fast.errors import EncoderError


def _rename(key: str) -> str:
    """Return the name of a BERT weight in ``MiniLM``."""
    for old, new in (
        ("encoder.layer.", "layers."),
        ("attention.self.query", "q"),
        ("attention.self.key", "k"),
        ("attention.self.value", "v"),
        ("attention.output.dense", "out"),
        ("attention.output.LayerNorm", "norm1"),
        ("intermediate.dense", "up"),
        ("output.dense", "down"),
        ("output.LayerNorm", "norm2"),
        ("embeddings.word_embeddings", "words"),
        ("embeddings.position_embeddings", "positions"),
        ("embeddings.token_type_embeddings", "types"),
        ("embeddings.LayerNorm", "norm"),
    ):
        key = key.replace(old, new)
    return key


class MiniLM(nn.Module):
    """A BERT encoder, read from a folder with config.json, model.safetensors and tokenizer.json.

    Args:
        folder: the model's folder.
        num_prompted: number of last layers that belong to the head.
        max_tokens: longer texts are cut to so many tokens.

    Raises:
        EncoderError: a file is missing.
    """

    def __init__(self, folder: Path, num_prompted: int, max_tokens: int = 128):
        super().__init__()
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            if not (folder / name).is_file():
                raise EncoderError(f"{folder}: no {name}; give a folder that holds a MiniLM sentence encoder")
        config = json.loads((folder / "config.json").read_text())
        self.width, heads = config["hidden_size"], config["num_attention_heads"]
        # The names of these attributes are in the state dict, and so in the encoder's fingerprint: don't rename them.
        self.words = nn.Embedding(config["vocab_size"], self.width)
        self.positions = nn.Embedding(config["max_position_embeddings"], self.width)
        self.types = nn.Embedding(config["type_vocab_size"], self.width)
        self.norm = nn.LayerNorm(self.width, eps=config["layer_norm_eps"])
        self.layers = nn.ModuleList(
            PostNormBlock(self.width, heads, config["intermediate_size"], config["layer_norm_eps"])
            for _ in range(config["num_hidden_layers"])
        )
        self.cut = len(self.layers) - num_prompted
        state = {_rename(k): v for k, v in load_file(folder / "model.safetensors").items()}
        wanted = self.state_dict().keys()  # BERT's pooling layer is not used
        self.load_state_dict({k: v for k, v in state.items() if k in wanted})
        self.requires_grad_(False).eval()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.max_tokens = max_tokens
        self.tokenizer.enable_truncation(max_tokens)
        self.tokenizer.enable_padding(pad_id=config["pad_token_id"])

    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Return token ids ``[B, N]`` int64 and mask ``[B, N]`` bool, padded to the longest text."""
        encoded = self.tokenizer.encode_batch(texts)
        device = self.words.weight.device
        ids = torch.tensor([e.ids for e in encoded], device=device)
        return ids, torch.tensor([e.attention_mask for e in encoded], dtype=torch.bool, device=device)

    def trunk(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return token states ``[B, N, 384]`` at the cut, from the ids and mask of ``encode``."""
        # All tokens have type 0: there is no second sentence.
        x = self.words(ids) + self.positions.weight[: ids.shape[1]] + self.types.weight[0]
        x = self.norm(x)
        for layer in self.layers[: self.cut]:
            x = layer(x, mask)
        return x

    def head(self, x: Tensor, mask: Tensor, prefix: Tensor | None = None) -> Tensor:
        """Return mean-pooled sentence embeddings ``[B, 384]``, not normalised, of token states at the cut."""
        for j, layer in enumerate(self.layers[self.cut :]):
            x = layer(x, mask, block_prefix(prefix, j))
        return masked_mean(x, mask)

    @torch.no_grad()
    def embed(self, texts: list[str], batch: int = 128) -> Tensor:
        """Return sentence embeddings ``[C, 384]`` of length 1."""
        parts = [self.encode(texts[i : i + batch]) for i in range(0, len(texts), batch)]
        rows = [self.head(self.trunk(ids, mask), mask) for ids, mask in parts]
        return F.normalize(torch.cat(rows), dim=-1)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean ``[B, d]`` of x ``[B, N, d]`` over the tokens where ``mask`` ``[B, N]`` is True."""
    weight = mask.unsqueeze(-1).to(x.dtype)
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1)
