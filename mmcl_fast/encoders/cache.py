"""The trunk cache: what is frozen is computed once per sample and view, and never again."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.errors import RunError


class TrunkCache:
    """One safetensors file for each set of samples: bf16 tokens, float32 queries, mask.

    A file's name is the sha256 of the encoder's fingerprint, the view and every sample's identity (path, size and
    modification time, or the text itself), so that a changed file or encoder is computed anew.

    Args:
        folder: where files are kept; None: a temporary folder that goes with this object.
        workers: decoding threads.
        batch: samples per trunk pass.
    """

    def __init__(self, folder: Path | None, *, workers: int = 2, batch: int = 32):
        self._temporary = None if folder is not None else tempfile.TemporaryDirectory(prefix="mmcl_fast-cache-")
        self.folder = Path(folder if folder is not None else self._temporary.name)
        self.workers, self.batch = workers, batch
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise RunError(f"{self.folder}: the cache folder can't be made ({fault.strerror}); set train.cache") from None

    def tokens(self, encoder: Encoder, samples: Sequence, *, view: int = 0, seed: int = 0,
               advance: Callable[[int], None] | None = None) -> Tokens:
        """The trunk's output for samples of one modality, computed or read back."""
        file = self.folder / f"{self._key(encoder, samples, view, seed)}.safetensors"
        if not file.exists():
            self._write(file, self._compute(encoder, samples, view, seed, advance))
        elif advance:
            advance(len(samples))
        return self._read(file).to(encoder.device)

    def _compute(self, encoder: Encoder, samples: Sequence, view: int, seed: int,
                 advance: Callable[[int], None] | None) -> Tokens:
        from mmcl_fast.media import loader

        modality, parts = samples[0].modality, []
        for indices, batch in loader(samples, encoder.spec(modality), workers=self.workers, batch_size=self.batch,
                                     view=view, seed=seed):
            out = encoder.trunk(batch, modality)
            parts.append(Tokens(out.tokens.bfloat16().cpu(), out.query.float().cpu(),
                                None if out.mask is None else out.mask.cpu()))
            if advance:
                advance(len(indices))
        return concatenate(parts)

    @staticmethod
    def _key(encoder: Encoder, samples: Sequence, view: int, seed: int) -> str:
        digest = hashlib.sha256(f"1 {encoder.fingerprint} {view} {seed if view else 0}".encode())
        for sample in samples:
            if sample.path is None:
                identity = sample.text
            else:
                info = os.stat(sample.path)
                identity = f"{Path(sample.path).resolve()} {info.st_size} {info.st_mtime_ns}"
            digest.update(f"\0{sample.modality}\0{identity}".encode())
        return digest.hexdigest()

    @staticmethod
    def _write(file: Path, tokens: Tokens) -> None:
        from safetensors.torch import save_file

        parts = {"tokens": tokens.tokens.contiguous(), "query": tokens.query.contiguous()}
        if tokens.mask is not None:
            parts["mask"] = tokens.mask.contiguous()
        handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".part")
        os.close(handle)
        try:
            save_file(parts, temporary)
            os.replace(temporary, file)
        except BaseException:
            os.unlink(temporary)
            raise

    @staticmethod
    def _read(file: Path) -> Tokens:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            parts = load_file(file)
        except SafetensorError as fault:
            raise RunError(f"{file}: broken cache file ({fault}); delete it, it will be computed anew") from None
        return Tokens(parts["tokens"], parts["query"], parts.get("mask"))


def concatenate(parts: list[Tokens]) -> Tokens:
    """Joins batches; shorter token sequences are padded (and masked) to the longest."""
    longest = max(p.tokens.shape[1] for p in parts)
    masked = any(p.mask is not None for p in parts)
    tokens = torch.cat([F.pad(p.tokens, (0, 0, 0, longest - p.tokens.shape[1])) for p in parts])
    mask = None
    if masked:
        mask = torch.cat([F.pad(p.mask, (0, longest - p.mask.shape[1])) for p in parts])
    return Tokens(tokens, torch.cat([p.query for p in parts]), mask)
