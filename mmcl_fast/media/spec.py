"""What an encoder wants of a file: sizes, statistics, windows and limits. Plain data, no decoder here."""

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
    """A field that came after encoders had been saved: their fingerprints hold the specs' values without it."""
    return field(default=default, repr=False)


def _to_plain_values(spec: Spec) -> dict[str, Any]:
    values = dataclasses.asdict(spec)
    return {f.name: values[f.name] for f in dataclasses.fields(spec) if f.repr or values[f.name] != f.default}


@dataclass(frozen=True)
class VisualSpec:
    """Preparation of image, video, depth, and of audio as a log-mel picture: float32 ``[F, 3, size, size]``.

    A picture of 8 bits in view 0 is what Pillow's CLIPImageProcessor (``crop``) or SiglipImageProcessor (``squash``) of
    transformers make of the file, turned upright: within 6 of 255 at any pixel, 0.3 on average (two passes of
    rounding, whose order differs). From 4 times ``size`` on a JPEG is scaled by its decoder, and from 6 times on a crop
    is reduced by a box filter first: within 16 at any pixel of a picture with the spectrum of photographs, 2 on
    average. tests/media/test_parity.py holds both.

    Attributes:
        modality: one of image, video, audio, depth, or one that ``media.register`` added.
        size: height and width in pixels.
        resize: ``squash`` (both sides to ``size``) or ``crop`` (short side to ``size``, centre crop).
        mean, std: per channel, of values in 0..1; the result is ``(x - mean) / std``.
        interpolation: ``bilinear`` or ``bicubic``, always antialiased.
        frames: F of a video, sampled uniformly over its duration; 1 for everything else.
        sample_rate: Hz, audio is resampled to it.
        seconds: length of the audio window; longer clips are cropped at the centre.
        window_policy: what fills the window of a shorter clip: ``repeat`` it or ``pad`` with silence.
        n_fft, hop, mels, f_min, f_max: of the log-mel spectrogram; samples, samples, bands, Hz, Hz or
            None for half the sample rate.
        db_range: dB below the clip's loudest mel value that map to 0.
        depth_scale: integer units per metre in depth files (1000: millimetres); float files hold metres.
        depth_range: ``(near, far)`` in metres that map to 1 and 0; None: each map's own 1 % and 99 %
            quantiles.
        depth_kind: what depth files hold: ``depth``; ``disparity``, proportional to inverse depth; or ``sun_rgbd``,
            depth in 16 bits that are rotated left by three, as SUN RGB-D stores it.
        depth_invalid: a value in depth files that means no measurement, besides 0, negative and non-finite ones.
        max_pixels: a picture or frame with more is refused before it is decoded (Pillow never opens more than
            178,956,970).
        max_seconds: a recording or video that lasts longer is refused.
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
        """Plain values for JSON; ``spec_from_dict`` is the inverse."""
        return _to_plain_values(self)


@dataclass(frozen=True)
class TextSpec:
    """Text stays a string; tokenising is the encoder's.

    Only the first ``max_chars`` characters are kept; a file of more than ``max_bytes`` is refused.
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
        return _to_plain_values(self)


Spec = Union[VisualSpec, TextSpec]
AnySpec = TypeVar("AnySpec", bound=Spec)


def spec_from_dict(values: dict[str, Any]) -> Spec:
    """The inverse of ``to_dict``. Raises ConfigError for an unknown key or a value out of range."""
    kind = TextSpec if values.get("modality") == "text" else VisualSpec
    unknown = sorted(set(values) - {field.name for field in dataclasses.fields(kind)})
    if unknown:
        raise ConfigError(f"media spec has unknown key {unknown[0]!r}: remove it")
    return kind(**values)


SETTINGS = {"max_pixels", "max_seconds", "max_bytes", "max_chars", "depth_kind", "depth_scale", "depth_invalid"}
LIMIT_SETTINGS = {"max_pixels", "max_seconds", "max_bytes"}  # these change no tensor
ISOLATION_SETTINGS = {
    "isolate",
    "max_decode_mb",
    "max_decode_seconds",
    "max_decode_wait",
}  # see ``media.isolation.limits``


def adjust(spec: AnySpec, settings: Mapping[str, Any]) -> AnySpec:
    """An encoder's spec with what the user says of their files: limits, and what depth maps hold (``SETTINGS``).

    Those that are None, of another modality's spec or of the processes that decode are passed over. Raises ConfigError
    for any other name.
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
    """The spec used where no encoder gives one: 224 pixels, 8 frames for video."""
    if modality == "text":
        return TextSpec()
    return VisualSpec(modality=modality, frames=8 if modality == "video" else 1)
