"""Specs: plain data that say how an encoder wants its inputs prepared: sizes, statistics, windows and limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Union, overload

from mmcl_fast.errors import ConfigError
from mmcl_fast.media.registry import REGISTRY

CHOICES: dict[str, Sequence[str]] = {
    "resize": ("squash", "crop"),
    "interpolation": ("bilinear", "bicubic"),
    "window_policy": ("repeat", "pad"),
    "depth_kind": ("depth", "disparity", "sun_rgbd"),
}
POSITIVE = (
    "size",
    "frames",
    "sample_rate",
    "seconds",
    "n_fft",
    "hop",
    "mels",
    "db_range",
    "depth_scale",
    "max_pixels",
    "max_seconds",
    "max_bytes",
)


def _added_field(default: Any) -> Any:
    """Return a dataclass field that was added after encoders had been saved.

    Fingerprints of encoders contain the values of their specs. So ``_to_plain_values`` leaves such a field out while it
    has its default; ``repr=False`` marks it.
    """
    return field(default=default, repr=False)


def _to_plain_values(spec: Spec) -> dict[str, Any]:
    """Return the fields of a spec as a dict, without added fields that have their default."""
    values = dataclasses.asdict(spec)
    return {f.name: values[f.name] for f in dataclasses.fields(spec) if f.repr or values[f.name] != f.default}


@dataclass(frozen=True)
class VisualSpec:
    """Preparation of image, video and depth, and of audio as a log-mel image: float32 ``[F, 3, size, size]``.

    View 0 of an 8-bit image equals the output of a transformers processor for the upright image: CLIPImageProcessor
    for ``crop``, SiglipImageProcessor for ``squash``. The difference is at most 6 of 255 at any pixel and 0.3 on
    average, because both round twice, in another order. A JPEG of 4 times ``size`` or more is scaled by its decoder. A
    crop of 6 times ``size`` or more is first reduced by a box filter. Then the difference is at most 16 at any pixel
    and 2 on average, for images with the spectrum of photographs. tests/media/readers/test_parity.py holds both limits.

    Attributes:
        modality: one of image, video, audio, depth, or one that ``media.register`` added.
        size: height and width in pixels.
        resize: ``squash`` (both sides to ``size``) or ``crop`` (short side to ``size``, centre crop).
        mean, std: per channel, of values in 0..1; the result is ``(x - mean) / std``.
        interpolation: ``bilinear`` or ``bicubic``, always antialiased.
        frames: F of a video, sampled uniformly over its duration; 1 for everything else.
        sample_rate: rate in Hz to which audio is resampled.
        seconds: length of the audio window; longer clips are cropped at the centre.
        window_policy: how the window of a shorter clip is filled: ``repeat`` the clip or ``pad`` it with silence.
        n_fft: window length of the log-mel spectrogram in samples.
        hop: step between its frames in samples.
        mels: number of mel bands.
        f_min, f_max: lowest and highest frequency in Hz; ``f_max`` None means half the sample rate.
        db_range: a level this many dB below the clip's loudest mel value maps to 0.
        depth_scale: integer units per metre in depth files (1000: millimetres); float files hold metres.
        depth_range: ``(near, far)`` in metres that map to 1 and 0; None: each map's own 1 % and 99 % quantiles.
        depth_kind: content of depth files: ``depth``, ``disparity`` (proportional to inverse depth) or ``sun_rgbd``
            (16-bit depth whose bits are rotated left by three).
        depth_invalid: a value in depth files that means no measurement. Values that are 0, negative or not finite mean
            the same.
        max_pixels: an image or frame with more pixels is refused before it is decoded. Pillow never opens more than
            178,956,970.
        max_seconds: a longer recording or video is refused.
        max_bytes: a larger file is refused before it is opened.
    """

    modality: str = "image"
    size: int = 224
    resize: str = "squash"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    interpolation: str = "bilinear"
    frames: int = 1
    sample_rate: int = 16000
    seconds: float = 5.0
    window_policy: str = "repeat"
    n_fft: int = 1024
    hop: int = 160
    mels: int = 128
    f_min: float = 20.0
    f_max: float | None = None
    db_range: float = 80.0
    depth_scale: float = 1000.0
    depth_range: tuple[float, float] | None = None
    max_pixels: int = 100_000_000
    max_seconds: float = 3600.0
    depth_kind: str = _added_field("depth")
    depth_invalid: float | None = _added_field(None)
    max_bytes: int = _added_field(1 << 32)

    def __post_init__(self) -> None:
        for name, allowed in {"modality": REGISTRY.visual_names(), **CHOICES}.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} = {getattr(self, name)!r}: use one of {', '.join(allowed)}")
        for name in POSITIVE:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} = {getattr(self, name)!r}: must be above 0")
        for name in ("mean", "std", "depth_range"):
            value = getattr(self, name)
            if value is not None:
                # JSON and TOML give lists, and a frozen dataclass needs this call.
                object.__setattr__(self, name, tuple(float(v) for v in value))
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError(f"mean = {self.mean}, std = {self.std}: three numbers each, std above 0")
        depth = self.depth_range
        if depth and not (len(depth) == 2 and 0 < depth[0] < depth[1]):
            raise ConfigError(f"depth_range = {depth}: give (near, far) in metres, 0 < near < far")
        if self.modality != "video" and self.frames != 1:
            raise ConfigError(f"frames = {self.frames}: only video has frames, {self.modality} has 1")
        if not 0 <= self.f_min < (self.f_max or self.sample_rate / 2) <= self.sample_rate / 2:
            raise ConfigError(
                f"f_min = {self.f_min}, f_max = {self.f_max}: need 0 <= f_min < f_max <= "
                f"{self.sample_rate / 2:g} Hz, half the sample rate"
            )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(F, 3, H, W)`` of one decoded item."""
        return self.frames, 3, self.size, self.size

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; ``spec_from_dict`` is the inverse."""
        return _to_plain_values(self)


@dataclass(frozen=True)
class TextSpec:
    """Preparation of text, which stays a string: the encoder tokenises it.

    Attributes:
        modality: always text.
        max_chars: only this many characters from the start of a file are kept.
        max_bytes: a larger file is refused before it is opened.
    """

    modality: str = "text"
    max_chars: int = 2000
    max_bytes: int = _added_field(1 << 26)

    def __post_init__(self) -> None:
        if self.modality != "text" or self.max_chars < 1 or self.max_bytes < 1:
            raise ConfigError(
                f"modality = {self.modality!r}, max_chars = {self.max_chars}, max_bytes = "
                f"{self.max_bytes}: need 'text' and at least 1"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; ``spec_from_dict`` is the inverse."""
        return _to_plain_values(self)


Spec = Union[VisualSpec, TextSpec]
AnySpec = TypeVar("AnySpec", bound=Spec)


def spec_from_dict(values: dict[str, Any]) -> Spec:
    """Return the spec of ``to_dict``'s values. Raises ConfigError for an unknown key or a value out of range."""
    kind = TextSpec if values.get("modality") == "text" else VisualSpec
    unknown = sorted(set(values) - {field.name for field in dataclasses.fields(kind)})
    if unknown:
        raise ConfigError(f"media spec has unknown key {unknown[0]!r}: remove it")
    return kind(**values)


# The keys of a config's [media] table: SETTINGS change a spec, ISOLATION_SETTINGS configure isolated decoding.
SETTINGS = {"max_pixels", "max_seconds", "max_bytes", "max_chars", "depth_kind", "depth_scale", "depth_invalid"}
LIMIT_SETTINGS = {"max_pixels", "max_seconds", "max_bytes"}  # they refuse files, but change no tensor
ISOLATION_SETTINGS = {"isolate", "max_decode_mb", "max_decode_seconds", "max_decode_wait"}


def adjust(spec: AnySpec, settings: Mapping[str, Any]) -> AnySpec:
    """Return an encoder's spec with the user's settings: the limits, and the content of depth maps (``SETTINGS``).

    A setting is ignored if it is None, if the spec has no such field, or if it configures isolated decoding.

    Raises:
        ConfigError: a setting has another name.
    """
    unknown = sorted(set(settings) - SETTINGS - ISOLATION_SETTINGS)
    if unknown:
        raise ConfigError(f"media setting {unknown[0]!r}: use one of {', '.join(sorted(SETTINGS))}")
    return dataclasses.replace(
        spec, **{name: value for name, value in settings.items() if value is not None and hasattr(spec, name)}
    )


@overload
def default_spec(modality: Literal["image", "video", "audio", "depth"]) -> VisualSpec: ...


@overload
def default_spec(modality: Literal["text"]) -> TextSpec: ...


@overload
def default_spec(modality: str) -> Spec: ...


def default_spec(modality: str) -> Spec:
    """Return the spec to use where no encoder gives one: 224 pixels, 8 frames for video."""
    if modality == "text":
        return TextSpec()
    return VisualSpec(modality=modality, frames=8 if modality == "video" else 1)
