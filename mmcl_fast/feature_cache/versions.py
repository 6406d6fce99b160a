"""Feature versions: the part of the feature cache's key that stands for code and libraries.

Stored features are valid while decoding and encoding give the same numbers. Two things may change the numbers:
this package's own code, whose version is written down in ``HISTORY``, and the libraries that it calls.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch

from mmcl_fast import _extension
from mmcl_fast.encoders.base import Encoder
from mmcl_fast.media.registry import BUILT_IN, REGISTRY, source_hash

CUSTOM = "custom"  # every modality that a user registers

# Each modality's versions, with the reason for each. The highest number is the current version. Raise it when decoding,
# or the trunk of a built-in encoder, gives other numbers: tests/feature_cache/test_reference.py fails until then.
HISTORY: dict[str, dict[int, str]] = {
    "image": {1: "the numbers of November 2026, when versions replaced a hash of the source code"},
    "video": {1: "the numbers of November 2026"},
    "audio": {1: "the numbers of November 2026"},
    "depth": {1: "the numbers of November 2026"},
    "text": {1: "the numbers of November 2026"},
    CUSTOM: {1: "the numbers of November 2026"},
}

# The libraries that produce or change a modality's numbers. torch and the compiled kernels serve all modalities.
LIBRARIES: dict[str, tuple[str, ...]] = {
    "image": ("pillow", "simplejpeg", "av", "numpy"),
    "video": ("av", "pillow"),  # Pillow reads animations
    "audio": ("soundfile", "av", "torchaudio", "numpy"),
    "depth": ("pillow", "OpenEXR", "av", "numpy"),  # av reads OpenEXR files where the library OpenEXR is missing
    "text": (),
    CUSTOM: ("numpy",),
}
DALI = ("nvidia-dali-cuda130", "nvidia-dali-cuda120", "nvidia-nvimgcodec-cu13", "nvidia-nvimgcodec-cu12")
NONE = "none"


def feature_versions(encoder: Encoder, modality: str, decoder: str) -> dict[str, str]:
    """Return everything besides file, spec and weights that the features of a modality depend on, by name.

    Args:
        encoder: the encoder; it names the libraries that its trunk runs.
        modality: a built-in or a registered modality.
        decoder: name of the engine that decodes: ``cpu`` or ``dali``.

    Returns:
        The feature version as ``features``, then names of libraries with their versions. Example for text:
        ``{"features": "1", "decoder": "cpu", "torch": "2.13.0", "kernels": "avx512", "tokenizers": "0.23.3"}``.
    """
    row = modality if modality in BUILT_IN else CUSTOM
    names = [*LIBRARIES[row], *encoder.trunk_libraries(modality)]
    if decoder == "dali":  # it leaves some files to the libraries of the cpu engine, so those count too
        names += [name for name in DALI if library_version(name) != NONE]
    found = {
        "features": str(max(HISTORY[row])),
        "decoder": decoder,
        "torch": str(torch.__version__),
        "kernels": kernels_version(),
        **{name: library_version(name) for name in dict.fromkeys(names)},
    }
    if (reader := REGISTRY.reader(modality)) is not None:
        found["reader"] = reader_hash(reader)
    return found


# Hashed once: a source file that is edited later is not what this process imported.
reader_hash = cache(source_hash)


def kernels_version() -> str:
    """Return the instruction set of the compiled kernels, or ``none``: each of them rounds differently."""
    module = _extension.load()[0]
    return NONE if module is None else str(module.cpu_isa())


@cache
def library_version(name: str) -> str:
    """Return the versions of a distribution and of its codecs; ``none`` where it is not installed."""
    if name == "simplejpeg" and _extension.load()[0] is None:
        return NONE  # its pixels go to the compiled resize alone
    try:
        found = version(name)
        inner = CODECS[name]() if name in CODECS else {}
    except (PackageNotFoundError, ImportError, OSError, RuntimeError):  # not there, or it cannot be imported
        return NONE
    return " ".join([found, *(f"{codec}-{number}" for codec, number in inner.items())])


def _pillow_codecs() -> dict[str, object]:
    from PIL import features

    names = ("libjpeg_turbo", "jpg", "jpg_2000", "webp", "avif", "libtiff")
    return {name: number for name in names if (number := features.version(name))}


def _ffmpeg_libraries() -> dict[str, object]:
    import av

    names = ("libavcodec", "libavformat", "libavutil", "libswscale", "libswresample")
    return {name: ".".join(map(str, av.library_versions[name])) for name in names}


def _libsndfile() -> dict[str, object]:
    import soundfile

    return {"libsndfile": soundfile.__libsndfile_version__}


def _imports_torchaudio() -> dict[str, object]:
    import torchaudio.functional  # noqa: F401  # one that is built for another torch fails here, and is not used

    return {}


# A distribution that is built from source may link other codecs under the same version, so the codecs are named too.
CODECS: dict[str, Callable[[], dict[str, object]]] = {
    "pillow": _pillow_codecs,
    "av": _ffmpeg_libraries,
    "soundfile": _libsndfile,
    "torchaudio": _imports_torchaudio,
}
