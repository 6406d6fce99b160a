"""The towers of CLIP and SigLIP, cut into a trunk and a head that takes prefixes.

Both models' layers are x + attn(ln1(x)), x + mlp(ln2(x)). CLIP: Radford et al. 2021, arXiv 2103.00020. SigLIP: Zhai
et al. 2023, arXiv 2303.15343. The submodules of transformers are called one by one here, because its layers take no
prefix.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcl_fast.encoders.prompted_blocks import block_prefix, sinusoid
from mmcl_fast.errors import EncoderError
from mmcl_fast.ops.attention import prefix_attention

GRID = 4  # the patch tokens of a video frame are averaged to about GRID x GRID
TEMPORAL = 0.25  # size of the temporal embedding, as a share of the mean magnitude of the sample's tokens
FRAME_BATCH = 64


def attend(attn: Any, x: Tensor, prefix: Tensor | None, causal: bool) -> Tensor:
    """Run the attention module of a layer over x ``[B, N, d]`` and a prefix; see ``prefix_attention``."""
    x = x.to(attn.q_proj.weight.dtype)
    return attn.out_proj(
        prefix_attention(
            attn.q_proj(x), attn.k_proj(x), attn.v_proj(x), attn.num_heads, prefix, causal=causal, scale=attn.scale
        )
    )


def run(layers: nn.ModuleList, x: Tensor, prefix: Tensor | None = None, causal: bool = False) -> Tensor:
    """Run layers with the last ``len(layers)`` slices of a prefix ``[J, 2, L, d]`` or ``[B, J, 2, L, d]``."""
    # A tower with fewer layers than the prefix has slices takes the last slices.
    first = 0 if prefix is None else prefix.shape[-4] - len(layers)
    layer: Any  # of transformers, without types
    for j, layer in enumerate(layers, first):
        x = x + attend(layer.self_attn, layer.layer_norm1(x), block_prefix(prefix, j), causal)
        x = x + layer.mlp(layer.layer_norm2(x).to(layer.mlp.fc1.weight.dtype))
    return x


class VisionTower:
    """The tower of images and frames. CLIP pools its class token, SigLIP attends over all tokens with a frozen probe.

    Args:
        model: a CLIPModel or SiglipModel.
        blocks: number of last layers in the head.
    """

    def __init__(self, model: Any, blocks: int):
        self.tower = model.vision_model
        self.project: Any = getattr(model, "visual_projection", None)
        config = model.config.vision_config
        self.width, self.size = config.hidden_size, config.image_size
        self.side = config.image_size // config.patch_size
        self.specials = int(hasattr(self.tower.embeddings, "class_embedding"))
        layers: nn.ModuleList = self.tower.encoder.layers
        self.lower, self.upper = layers[: len(layers) - blocks], layers[len(layers) - blocks :]
        # The head tells an image from pooled frames by N, so no number of frames may give the N of an image.
        image_tokens = self.specials + self.side**2
        self.grid = next(
            g
            for g in range(min(self.side, GRID), self.side + 1)
            if g == self.side or image_tokens % (self.specials + g * g)
        )

    def trunk(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens ``[B, N, d]`` and query ``[B, d]`` float32 of pixels ``[B, F, 3, size, size]``.

        One frame gives its patch tokens, after CLIP's class token. Of several frames, each passes the trunk alone. Its
        patch tokens are averaged to ``grid`` x ``grid``, and a sinusoidal temporal embedding is added to all its
        tokens. Then the frames are joined: N = F (1 + grid^2) for CLIP. The query is the mean of the patch tokens
        before that.
        """
        count, frames = pixels.shape[:2]
        pixels = pixels.flatten(0, 1)
        # An exported graph cannot hold a loop whose length depends on the batch.
        parts = (pixels,) if torch.compiler.is_exporting() else pixels.split(FRAME_BATCH)
        x = torch.cat([self._run_trunk(part) for part in parts])
        patches = x[:, self.specials :]
        query = patches.float().mean(1).view(count, frames, -1).mean(1)
        if frames == 1:
            return x, query
        cells = patches.transpose(1, 2).unflatten(2, (self.side, self.side))
        pooled = F.adaptive_avg_pool2d(cells, self.grid).flatten(2).transpose(1, 2)
        x = torch.cat([x[:, : self.specials], pooled], dim=1).view(count, frames, -1, self.width)
        time = sinusoid(torch.arange(frames, device=x.device) / (frames - 1) * 8, self.width)[:, None]
        # Relative to the tokens' size, because models differ in it by an order of magnitude.
        scale = TEMPORAL * x.abs().mean((1, 2, 3), keepdim=True)
        return (x + scale * time.to(x.dtype)).flatten(1, 2), query

    def _run_trunk(self, pixels: Tensor) -> Tensor:
        x = self.tower.embeddings(pixels)
        if hasattr(self.tower, "pre_layrnorm"):
            x = self.tower.pre_layrnorm(x)
        return run(self.lower, x)

    def head(self, x: Tensor, mask: Tensor | None, prefix: Tensor | None) -> Tensor:
        """Return z ``[B, D]`` of tokens ``[B, N, d]``; for CLIP the mean over the frames' class tokens."""
        x = run(self.upper, x, prefix)
        if not self.specials:
            return self.tower.head(self.tower.post_layernorm(x))
        is_image = x.shape[1] == 1 + self.side**2
        classes = x[:, :: x.shape[1] if is_image else 1 + self.grid**2]
        return self.project(self.tower.post_layernorm(classes).mean(1))


class TextTower:
    """The tower of texts. CLIP is causal and pools the end-of-text token. SigLIP pads to full length and pools the end.

    Args:
        model: a CLIPModel or SiglipModel.
        tokenizer: the model's tokenizer.
        blocks: number of last layers in the head.
    """

    def __init__(self, model: Any, tokenizer: Any, blocks: int):
        self.tower, self.tokenizer = model.text_model, tokenizer
        self.project = getattr(model, "text_projection", None) or model.text_model.head
        config = model.config.text_config
        self.width, self.end = config.hidden_size, config.eos_token_id
        self.length = config.max_position_embeddings
        self.causal = model.config.model_type == "clip"
        layers: nn.ModuleList = self.tower.encoder.layers
        self.lower, self.upper = layers[: len(layers) - blocks], layers[len(layers) - blocks :]
        tokenizer.padding_side = tokenizer.truncation_side = "right"

    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Return token ids and mask ``[B, N]``, cut to the model's length; True up to and with the end token.

        SigLIP is trained on lower-case texts; the tokenizer that SigLIP 2 shares with Gemma keeps case.
        """
        if not self.causal:
            texts = [text.lower() for text in texts]
        out = self.tokenizer(
            texts,
            padding=True if self.causal else "max_length",
            truncation=True,
            max_length=self.length,
            return_attention_mask=True,
            return_tensors="pt",
        )
        ids = out["input_ids"]
        if not self.causal:
            return ids, out["attention_mask"].bool()
        # Old CLIP configs say 2 where the end token is the highest id (transformers#24773).
        end = (ids if self.end == 2 else ids == self.end).int().argmax(1)
        return ids, torch.arange(ids.shape[1]) <= end[:, None]

    def describe(self) -> tuple[str, dict[str, Any]]:
        """See ``Encoder.tokenizer``."""
        if not hasattr(self.tokenizer, "backend_tokenizer"):
            raise EncoderError(f"{type(self.tokenizer).__name__} can't be written as a tokenizer.json: leave text out")
        self.encode(["a"])  # transformers sets padding and truncation at a call
        return self.tokenizer.backend_tokenizer.to_str(), {
            "lowercase": not self.causal,
            "max_tokens": self.length,
            "dynamic": self.causal,
        }

    def trunk(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return tokens ``[B, N, d]``, query ``[B, d]`` float32 (mean of the real tokens), and CLIP's mask or None.

        SigLIP has no mask: it attends to its padding, as it was trained.

        Args:
            ids, mask: from ``encode``.
        """
        device = self.tower.embeddings.token_embedding.weight.device
        ids, mask = ids.to(device), mask.to(device)
        x = run(self.lower, self.tower.embeddings(ids), causal=self.causal)
        real = mask.unsqueeze(-1)
        query = (x.float() * real).sum(1) / real.sum(1).clamp(min=1)
        return x, query, mask if self.causal else None

    def head(self, x: Tensor, mask: Tensor | None, prefix: Tensor | None) -> Tensor:
        """Return z ``[B, D]`` of tokens ``[B, N, d]``. CLIP's end token sees no token after it."""
        x = self.tower.final_layer_norm(run(self.upper, x, prefix, self.causal))
        if not self.causal:
            return self.project(x[:, -1])
        if mask is None:
            raise EncoderError("texts without a mask: give the tokens that trunk returned, with their mask")
        return self.project(x[torch.arange(x.shape[0], device=x.device), mask.sum(1) - 1])
