"""Decode one item: a file, or its bytes, to the input of an encoder's trunk."""

from __future__ import annotations

import codecs
import errno
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, overload

import torch
from torch import Tensor

from mmcl_fast.errors import MediaError
from mmcl_fast.media.dsp.views import draw_view, normalise
from mmcl_fast.media.formats import HEAD, recognise, recognise_text_kind
from mmcl_fast.media.registry import BUILT_IN, MODALITIES
from mmcl_fast.media.signatures import text_encoding
from mmcl_fast.media.sniff import sniff
from mmcl_fast.media.source import Source, head, name_of, open_binary, size_of
from mmcl_fast.media.spec import Spec, TextSpec, VisualSpec, default_spec

Result = TypeVar("Result")


@overload
def decode(
    source: Source,
    modality: str,
    spec: VisualSpec,
    *,
    view: int = 0,
    seed: int = 0,
    key: str | None = None,
    out: Tensor | None = None,
) -> Tensor: ...


@overload
def decode(source: Source, modality: str, spec: TextSpec, *, view: int = 0, seed: int = 0) -> str: ...


@overload
def decode(
    source: Source,
    modality: str,
    spec: Spec | None = None,
    *,
    view: int = 0,
    seed: int = 0,
    key: str | None = None,
    out: Tensor | None = None,
) -> Tensor | str: ...


def decode(
    source: Source,
    modality: str,
    spec: Spec | None = None,
    *,
    view: int = 0,
    seed: int = 0,
    key: str | None = None,
    out: Tensor | None = None,
) -> Tensor | str:
    """Decode one item.

    Args:
        source: a path, the file's bytes, or a ``Slice`` of a file.
        modality: one of ``MODALITIES``; ``sniff`` finds it where it is not known.
        spec: the encoder's preparation; None: ``default_spec(modality)``.
        view: 0 is the plain item; each other number is a random view drawn from (seed, view, key).
        seed: of the random views.
        key: the item's identity; None: the file's name, or "" for bytes.
        out: float32 ``[F, 3, size, size]`` that receives the result; None: a new tensor. Not for text.

    Returns:
        float32 ``[F, 3, size, size]``, normalised; for text the string, whatever the view.

    Raises:
        MediaError: the file is missing, empty, broken or of another modality. The message is one line with its name.
            Also if ``spec`` is for another modality.
    """
    spec = spec or default_spec(modality)
    if modality not in MODALITIES or spec.modality != modality:
        raise MediaError(
            f"{name_of(source)}: modality {modality!r} with a spec for {spec.modality}: "
            f"use one of {', '.join(MODALITIES)} and its own spec"
        )
    if isinstance(spec, TextSpec):
        return _run_decoder(source, spec, lambda: _read_text(source, spec))
    name = "" if isinstance(source, bytes) else Path(name_of(source)).name
    image = _run_decoder(
        source,
        spec,
        lambda: _choose_reader(modality)(source, spec, draw_view(view, seed, name if key is None else key)),
    )
    return normalise(image, spec, torch.empty(spec.shape) if out is None else out)


def check(source: Source, modality: str, spec: Spec | None = None) -> None:
    """Decode a file to its end. Raises MediaError with its name and what is wrong with it."""
    spec = spec or default_spec(modality)
    if isinstance(spec, VisualSpec):
        _run_decoder(source, spec, lambda: _choose_reader(modality)(source, spec, draw_view(0, 0, ""), to_end=True))
    else:
        _run_decoder(source, spec, lambda: _read_text(source, spec, to_end=True))


def _choose_reader(modality: str) -> Callable[..., Tensor]:
    """Return the function that reads this modality; its packages are imported with the first file."""
    from mmcl_fast.media.custom import read_custom
    from mmcl_fast.media.readers import cpu

    return read_custom if modality not in BUILT_IN else cpu.READERS[modality]


def _run_decoder(source: Source, spec: Spec, work: Callable[[], Result]) -> Result:
    """Run ``work``. Any exception of a decoder about the file becomes a MediaError with the file's name."""
    name, modality = name_of(source), spec.modality
    try:
        size = size_of(source)
        if size == 0:
            raise MediaError("the file is empty")
        if size > spec.max_bytes:
            raise MediaError(f"{size} bytes, the limit is {spec.max_bytes}: make it smaller or raise max_bytes")
        return work()
    except MediaError as error:
        message = str(error)
        raise MediaError(
            f"{name}: {message}" if ": " in message else _with_advice(source, modality, message)
        ) from error
    except ImportError as error:
        raise MediaError(f"{name}: {modality} needs the package {error.name!r}: install it") from error
    except Exception as error:  # broken bytes make a decoder raise anything
        if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.EACCES, errno.EISDIR):
            raise MediaError(f"{name}: {error.strerror}: check the path") from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        reason = re.sub(r":? (<.*>|'file:.*')$", "", reason)[:200]  # remove an object's address, or the name once more
        raise MediaError(_with_advice(source, modality, f"cannot be decoded as {modality} ({reason})")) from error


def _with_advice(source: Source, modality: str, message: str) -> str:
    """Return ``message`` with advice from the content of a file that could not be decoded as ``modality``."""
    name, start, row, kind = name_of(source), b"", None, None
    try:
        start = head(source, HEAD)
        row = recognise(start)
        kind = sniff(source)
    except (OSError, MediaError):
        pass
    if row is not None and not row.library:
        return f"{name}: {row.refusal}"
    if kind in (None, modality):
        return f"{name}: {message}: replace the file or remove it"
    if kind == "text" and (found := recognise_text_kind(start)):
        return f"{name}: {message}: its content is text ({found.name}): {found.advice}"
    return f"{name}: {message}: its content is {kind}; move it to {kind} or replace it"


def _read_text(source: Source, spec: TextSpec, to_end: bool = False) -> str:
    """Return the first ``spec.max_chars`` characters without white space around them; ``to_end`` checks all bytes."""
    limit = max(4 * spec.max_chars + 4, HEAD)  # a character and a byte order mark take at most 4 bytes each
    with open_binary(source) as file:
        data = file.read(-1 if to_end else limit)
    row = recognise(data[:HEAD])
    if row is not None and not row.library:
        raise MediaError(row.refusal)
    try:
        text = codecs.getincrementaldecoder(text_encoding(data))().decode(data, final=to_end or len(data) < limit)
    except UnicodeDecodeError as error:
        if row is not None and row.modalities == ("text",):
            raise MediaError(f"is not UTF-8 from byte {error.start} on: save it as UTF-8") from error
        raise
    if "\0" in text:
        raise MediaError("holds zero bytes, so it is not text")
    text = text.strip()
    if not text:
        raise MediaError("holds no words")
    return text[: spec.max_chars]
