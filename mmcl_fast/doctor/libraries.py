"""Checks of the libraries that read files and run encoders."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec

from mmcl_fast.doctor.result import CheckResult, installed_version, one_line


def check_codecs() -> Iterator[CheckResult]:
    """Report the libraries that decode files, with their formats."""
    for module, package, inspect in (
        ("av", "av", _av_codecs),
        ("soundfile", "soundfile", _soundfile_formats),
        ("PIL", "pillow", _pillow_formats),
        ("simplejpeg", "simplejpeg", _simplejpeg_formats),
    ):
        try:
            import_module(module)
            lacking, about = inspect()
        except (ImportError, OSError) as error:
            yield CheckResult(package, "broken", one_line(error), f"pip install {package}")
            continue
        yield CheckResult(
            package,
            "broken" if lacking else "ok",
            f"{installed_version(package)}; {about}" + (f"; lacks {', '.join(lacking)}" if lacking else ""),
            f"pip install --force-reinstall {package}, as a wheel" if lacking else "",
        )


def _av_codecs() -> tuple[list[str], str]:
    """Return the codecs that PyAV lacks, and a text of the others."""
    from av.codec import codecs_available

    # A codec of an outside library has a name such as libopus.
    wanted = ["h264", "hevc", "vp8", "vp9", "av1", "mjpeg", "aac", "mp3", "opus", "vorbis"]
    have = [name for name in wanted if name in codecs_available or f"lib{name}" in codecs_available]
    return [name for name in wanted if name not in have], f"decodes {', '.join(have)}"


def _soundfile_formats() -> tuple[list[str], str]:
    import soundfile

    formats = soundfile.available_formats()
    lacking = [name for name in ("WAV", "FLAC", "OGG") if name not in formats]
    return lacking, f"libsndfile {soundfile.__libsndfile_version__}"


def _pillow_formats() -> tuple[list[str], str]:
    from PIL import features

    names = ("jpg", "zlib", "webp", "libtiff")
    return [n for n in names if not features.check(n)], f"reads {', '.join(n for n in names if features.check(n))}"


def _simplejpeg_formats() -> tuple[list[str], str]:
    return [], "decodes plain JPEG files; without it Pillow does"


def check_torch_companions() -> Iterator[CheckResult]:
    """Report torchvision and torchaudio. Built for another torch, they keep transformers from being imported."""
    import torch

    for package in ("torchvision", "torchaudio"):
        found = installed_version(package)
        if found is None:
            continue
        try:
            import_module(package)
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            yield CheckResult(
                package,
                "broken",
                f"{found} does not import beside torch {torch.__version__}: {one_line(error)}; "
                "transformers' CLIP then does not import either",
                f"pip uninstall {package}",
            )
        else:
            yield CheckResult(package, "ok", found)


def check_extras() -> Iterator[CheckResult]:
    """Report the packages of the optional extras. They are found by name: importing transformers takes seconds."""
    for package, module, purpose, mend in (
        ("transformers", "transformers", "CLIP and SigLIP encoders", "pip install 'mmcl-fast[clip]'"),
        ("OpenEXR", "OpenEXR", "every kind of OpenEXR file", "pip install 'mmcl-fast[exr]'"),
        ("pyarrow", "pyarrow", "manifests and tables in Parquet", "pip install 'mmcl-fast[parquet]'"),
        ("triton", "triton", "Triton kernels", "pip install 'mmcl-fast[triton]'"),
        ("starlette", "starlette", "mmcl-fast serve", "pip install 'mmcl-fast[serve]'"),
    ):
        found = installed_version(package)
        try:
            spec = find_spec(module)
        except ModuleNotFoundError:
            spec = None
        if found and spec:
            yield CheckResult(package, "ok", f"{found}: {purpose}")
        else:
            yield CheckResult(package, "missing", f"optional: {purpose}", mend)


def check_dali() -> Iterator[CheckResult]:
    """Report DALI and try it, because it needs a driver of the right version."""
    import torch

    from mmcl_fast.media.engines.dali import availability

    found = [
        f"{package} {number}"
        for package in ("nvidia-dali-cuda130", "nvidia-dali-cuda120")
        if (number := installed_version(package))
    ]
    if not found:
        yield CheckResult("dali", "missing", "optional: decoding by DALI", availability.INSTALL)
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    why_not = availability.available(device)
    yield CheckResult(
        "dali",
        "broken" if why_not else "ok",
        f"{', '.join(found)}: {why_not or f'decodes on {device}'}",
        availability.INSTALL if why_not else "",
    )


def check_embedded_weights() -> Iterator[CheckResult]:
    """Report the packages that hold the weights of the encoder ``embedded``."""
    from mmcl_fast.encoders.efficientnet import INSTALL_WEIGHTS, WEIGHT_PACKAGES

    for package in WEIGHT_PACKAGES.values():
        found = installed_version(package)
        state, about = ("ok", found) if found else ("missing", "weights of the embedded encoder")
        yield CheckResult(package, state, about, "" if found else INSTALL_WEIGHTS)
