"""Any CLIP or SigLIP through transformers, by hub name or from a local folder, cut into trunk and head.

Images, frames of video, log-mel spectrograms and depth maps go through the vision tower. Text samples go through the
text tower. Both towers are cut. Without a prefix, z equals get_image_features and get_text_features of transformers.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.encoders.clip_layers import GRID, TEMPORAL, TextTower, VisionTower
from mmcl_fast.encoders.prompted_blocks import set_dtype
from mmcl_fast.errors import EncoderError
from mmcl_fast.media.registry import BUILT_IN, MODALITIES
from mmcl_fast.media.spec import Spec, TextSpec, VisualSpec

KINDS = {"clip": "CLIPModel", "siglip": "SiglipModel"}
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZERS = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")
IMAGE_SETTINGS = ("preprocessor_config.json", "processor_config.json")
BILINEAR = 2  # Pillow's number; any other filter is taken as bicubic
TEXT_BATCH = 64


class ClipEncoder(Encoder):
    """A frozen CLIP or SigLIP (SigLIP 2 at fixed resolution too).

    Towers may differ in depth: ViT-L has 24 vision layers and 12 text layers. A tower with fewer than J layers takes
    the last slices of a prefix. SigLIP's logit bias is left out, because a constant does not change a softmax.

    Args:
        name_or_folder: a hub name such as ``"openai/clip-vit-base-patch32"``, or a folder in Hugging Face format.
        prompt_blocks: J, the number of last layers that take prompts and belong to the head. ``"all"``: every layer,
            so that the trunk is the patch embedding alone.
        device, dtype: of the frozen weights. z and queries are always float32.
        frames: F of a video.

    Raises:
        EncoderError: one line that says what is missing and what to do.
    """

    def __init__(
        self,
        name_or_folder: str | Path,
        *,
        prompt_blocks: int | str = 4,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        frames: int = 8,
    ):
        self.name, self.dtype, self.frames = str(name_or_folder), dtype, frames
        self._model, tokenizer, self._image_settings = load(self.name, dtype)
        depth = {t: len(getattr(self._model, f"{t}_model").encoder.layers) for t in ("vision", "text")}
        self.num_prompted_blocks = self._resolve_blocks(prompt_blocks, max(depth.values()))
        self._vision = VisionTower(self._model, min(self.num_prompted_blocks, depth["vision"]))
        self._text = TextTower(self._model, tokenizer, min(self.num_prompted_blocks, depth["text"]))
        self._towers: dict[str, VisionTower | TextTower] = {"vision": self._vision, "text": self._text}
        self.query_dim = self._vision.width + self._text.width
        self.dim = self._text.project.out_features
        self.logit_scale = self._model.logit_scale.float().exp().item()
        self.fingerprint = self._hash(tokenizer)
        self.to(device)

    def tower(self, modality: str) -> str:
        if modality not in MODALITIES:
            raise EncoderError(f"{self.name} has no modality {modality!r}: use one of {', '.join(MODALITIES)}")
        return "text" if modality == "text" else "vision"

    def prefix_width(self, modality: str) -> int:
        return self._towers[self.tower(modality)].width

    def spec(self, modality: str) -> Spec:
        """Return statistics, crop and resampling from the model's image settings, and the vision tower's size.

        A spectrogram is always squashed: a crop would cut its start and end.
        """
        if self.tower(modality) == "text":
            return TextSpec()
        settings = self._image_settings
        unnormalised = settings.get("do_normalize", True) is False
        size = settings.get("size")
        crop = settings.get("do_center_crop", False) or (isinstance(size, dict) and "shortest_edge" in size)
        return VisualSpec(
            modality=modality,
            size=self._vision.size,
            frames=self.frames if modality == "video" else 1,
            resize="crop" if crop and modality != "audio" else "squash",
            interpolation="bilinear" if settings.get("resample") == BILINEAR else "bicubic",
            mean=(0, 0, 0) if unnormalised else settings["image_mean"],
            std=(1, 1, 1) if unnormalised else settings["image_std"],
        )

    @torch.no_grad()
    def trunk(self, batch: Tensor | list[str], modality: str) -> Tokens:
        """See ``Encoder.trunk``. The query is the mean of the patch tokens (vision) or of the real tokens (text)."""
        if self.tower(modality) == "text":
            return self.trunk_of_ids(*self._text.encode(cast(list[str], batch)))
        batch, size = cast(Tensor, batch), self._vision.size
        if batch.dim() != 5 or batch.shape[2:] != (3, size, size):
            raise EncoderError(
                f"{self.name}: a batch of {modality} has shape {list(batch.shape)}: "
                f"give [B, F, 3, {size}, {size}], as spec({modality!r}) says"
            )
        tokens, query = self._vision.trunk(batch.to(self.device, self.dtype))
        return Tokens(tokens, F.pad(query, (0, self._text.width)))

    @torch.no_grad()
    def trunk_of_ids(self, ids: Tensor, mask: Tensor) -> Tokens:
        tokens, query, mask_of_tokens = self._text.trunk(ids, mask)
        return Tokens(tokens, F.pad(query, (self._vision.width, 0)), mask_of_tokens)

    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        return self._text.encode(texts)

    def tokenizer(self) -> tuple[str, dict[str, Any]]:
        return self._text.describe()

    def head(self, tokens: Tokens, prefix: Tensor | None, modality: str) -> Tensor:
        tower = self._towers[self.tower(modality)]
        if prefix is not None and (prefix.shape[-4], prefix.shape[-3], prefix.shape[-1]) != (
            self.num_prompted_blocks,
            2,
            tower.width,
        ):
            raise EncoderError(
                f"{self.name}: a prefix for {modality} has shape {list(prefix.shape)}: "
                f"give [{self.num_prompted_blocks}, 2, L, {tower.width}], with or without B in front"
            )
        return tower.head(tokens.tokens.to(self.dtype), tokens.mask, prefix).float()

    @torch.no_grad()
    def text(self, texts: list[str]) -> Tensor:
        rows = [
            self.head(self.trunk(texts[i : i + TEXT_BATCH], "text"), None, "text")
            for i in range(0, len(texts), TEXT_BATCH)
        ]
        return F.normalize(torch.cat(rows), dim=1) if rows else torch.empty(0, self.dim, device=self.device)

    def to(self, device: torch.device | str) -> ClipEncoder:
        self.device = torch.device(device)
        self._model.to(self.device)
        return self

    def trainable_modules(self) -> list[nn.Module]:
        return [tower.upper for tower in self._towers.values()]

    def trunk_libraries(self, modality: str) -> tuple[str, ...]:
        text = ("tokenizers", "sentencepiece") if self.tower(modality) == "text" else ()
        return ("transformers", *text)

    def set_precision(self, dtype: torch.dtype) -> None:
        super().set_precision(dtype)
        for tower in self._towers.values():
            set_dtype(tower.upper, dtype)

    def _resolve_blocks(self, prompt_blocks: int | str, depth: int) -> int:
        """Return the number of prompted layers of at most ``depth``. Raises EncoderError."""
        if prompt_blocks == "all":
            return depth
        if not isinstance(prompt_blocks, int) or not 1 <= prompt_blocks <= depth:
            raise EncoderError(
                f'prompt_blocks = {prompt_blocks!r}: {self.name} has {depth} layers, give 1 to {depth} or "all"'
            )
        return prompt_blocks

    def _hash(self, tokenizer: Any) -> str:
        """Return the fingerprint. Runs on disk hold it: a change of these lines makes them refuse their encoder."""
        kind = self._model.config.model_type
        cut = [type(self).__name__, kind, self.num_prompted_blocks, GRID, TEMPORAL, str(self.dtype)]
        specs = [self.spec(modality).to_dict() for modality in BUILT_IN]
        digest = hashlib.sha256(json.dumps([cut, specs, sorted(tokenizer.get_vocab().items())]).encode())
        for key, value in sorted(self._model.state_dict().items()):
            digest.update(f"{key} {tuple(value.shape)}".encode())
            digest.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def load(name: str, dtype: torch.dtype) -> tuple[Any, Any, dict[str, Any]]:
    """Load the frozen model, its tokenizer and its image settings. Raises EncoderError."""
    try:
        folder = Path(name).expanduser()
    except RuntimeError as fault:  # ~ where no home folder is known, or ~nobody
        raise EncoderError(f"{name}: {fault} give the folder's path from / on") from None
    local = folder.is_dir()
    if local:
        name = str(folder)
        _require_file(folder, ("config.json",), "config.json")
    elif folder.exists() or folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise EncoderError(f"{name}: no such folder: give a folder with a CLIP or SigLIP, or a hub name")
    config_class = _from_transformers("PreTrainedConfig")
    with _quiet(), _one_line_errors(name, local, "config.json"):
        kind = config_class.get_config_dict(name)[0].get("model_type")
    if kind not in KINDS:
        advice = (
            "give a CLIP or SigLIP with both towers"
            if kind != "siglip2"
            else "SigLIP 2 of variable resolution is not supported, use one of fixed resolution such as "
            "google/siglip2-base-patch16-224"
        )
        raise EncoderError(f"{name}: model_type is {kind!r}, not 'clip' or 'siglip': {advice}")
    if local:
        _require_file(folder, WEIGHTS, "weights (model.safetensors)")
        _require_file(folder, TOKENIZERS, "tokenizer (tokenizer.json)")
        _require_file(folder, IMAGE_SETTINGS, "image settings (preprocessor_config.json)")
    model_class, tokenizer_class = _from_transformers(KINDS[kind]), _from_transformers("AutoTokenizer")
    with _quiet(), _one_line_errors(name, local, "image settings"):
        image_settings = _read_image_settings(name)
    with _quiet(), _one_line_errors(name, local, "tokenizer"):
        _check_sentencepiece(name)
        tokenizer = tokenizer_class.from_pretrained(name)
    with _quiet(), _one_line_errors(name, local, "weights"):
        model, info = model_class.from_pretrained(name, dtype=dtype, output_loading_info=True)
    missing = sorted(info["missing_keys"])
    if missing:
        raise EncoderError(
            f"{name}: the weights lack {len(missing)} tensors, the first is {missing[0]}: "
            "give a folder with both towers, or download it again"
        )
    if kind == "siglip" and not hasattr(model.vision_model, "head"):
        raise EncoderError(
            f"{name}: its vision tower has no pooling head (vision_use_head is false): give a SigLIP that embeds images"
        )
    return model.requires_grad_(False).eval(), tokenizer, image_settings


def _require_file(folder: Path, names: tuple[str, ...], what: str) -> None:
    """Raise EncoderError unless the folder has one of the files."""
    if not any((folder / name).is_file() for name in names):
        raise EncoderError(
            f"{folder}: no {what} in this folder: give a folder that save_pretrained wrote or that was downloaded whole"
        )


def _from_transformers(name: str) -> Any:
    """Import a public class of transformers; only here, because the import takes seconds."""
    if importlib.util.find_spec("transformers") is None:
        raise EncoderError("a CLIP or SigLIP encoder needs transformers: pip install 'mmcl-fast[clip]'")
    try:
        return getattr(importlib.import_module("transformers"), name)
    except (ImportError, RuntimeError, OSError, AttributeError) as fault:
        # transformers imports both, and one that is built for another torch makes its own import fail.
        broken = [package for package in ("torchvision", "torchaudio") if _is_broken(package)]
        if broken:
            raise EncoderError(
                f"transformers can't be imported, because {' and '.join(broken)} here is not built for "
                f"torch {torch.__version__}: pip uninstall {' '.join(broken)}"
            ) from fault
        raise EncoderError(
            f"transformers.{name} can't be imported ({_first_line(fault)}): pip install -U 'mmcl-fast[clip]'"
        ) from fault


def _is_broken(package: str) -> bool:
    """Return whether a package is installed and cannot be imported."""
    if importlib.util.find_spec(package) is None:
        return False
    try:
        importlib.import_module(package)
    except Exception:  # a library for another torch fails in any way at import
        return True
    return False


def _read_image_settings(name: str) -> dict[str, Any]:
    """Read preprocessor_config.json and check its statistics."""
    mixin = importlib.import_module("transformers.image_processing_base").ImageProcessingMixin
    settings = mixin.get_image_processor_dict(name)[0]
    for key in ("image_mean", "image_std"):
        value = settings.get(key)
        three = isinstance(value, list) and len(value) == 3
        if not three and settings.get("do_normalize", True) is not False:
            raise EncoderError(f"{name}: preprocessor_config.json has {key} = {value!r}: three numbers are needed")
    return settings


def _check_sentencepiece(name: str) -> None:
    """Raise EncoderError where SigLIP's tokenizer lacks its packages.

    transformers then reads a tokenizer.json that may lack SigLIP's canonical form of texts.
    """
    auto = importlib.import_module("transformers.models.auto.tokenization_auto")
    kind = auto.get_tokenizer_config(name).get("tokenizer_class") or ""
    if kind.removesuffix("Fast") == "SiglipTokenizer":
        have = importlib.import_module("transformers.utils")
        if not (have.is_sentencepiece_available() and have.is_protobuf_available()):
            raise EncoderError(f"{name}: its tokenizer needs two packages: pip install sentencepiece protobuf")


@contextmanager
def _one_line_errors(name: str, local: bool, what: str) -> Iterator[None]:
    """Turn any error of transformers about a folder or the hub into an EncoderError of one line."""
    try:
        yield
    except EncoderError:
        raise
    except Exception as fault:  # config, tokenizer and weight readers raise their own kinds, some not public
        reason = _first_line(fault)
        if local:
            raise EncoderError(f"{name}: {what} can't be read ({reason}): replace the file") from fault
        raise EncoderError(
            f"{name}: {what} can't be fetched from the hub ({reason}): check the name; without a connection "
            "download the model elsewhere and give its folder, or set HF_HUB_OFFLINE=1 to use what is cached"
        ) from fault


def _first_line(fault: BaseException) -> str:
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0].rstrip(". ")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress bars and notes of transformers and its hub client while a model loads."""
    log, hub = importlib.import_module("transformers.utils.logging"), logging.getLogger("huggingface_hub")
    level, hub_level, bar = log.get_verbosity(), hub.level, log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.set_verbosity(level)
        hub.setLevel(hub_level)
        if bar:
            log.enable_progress_bar()
