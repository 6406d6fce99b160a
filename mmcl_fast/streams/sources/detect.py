"""The kind of data at a path: a folder of media, a manifest, a table of texts, or tars."""

from __future__ import annotations

import os
from pathlib import Path

from mmcl_fast.errors import StreamError
from mmcl_fast.media.registry import MODALITIES
from mmcl_fast.streams.sources.manifest import MANIFEST_NAMES
from mmcl_fast.streams.sources.table_reader import TABLE_ENDINGS
from mmcl_fast.streams.sources.text_table import is_text_table

# Compressed tars too: the reader of tars then says how to unpack them.
TAR_ENDINGS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


def detect_source(path: str | Path) -> str:
    """Return what ``Stream.from_path`` reads ``path`` as: ``folder``, ``manifest``, ``table`` or ``tar``.

    The first rule that fits decides:

    1. A folder with a subfolder named after a modality is a ``folder``.
    2. A folder that holds manifest.jsonl (.parquet, .csv, .tsv) is a ``manifest``.
    3. A folder with tars is a ``tar``, one with tables a ``table``, any other one a ``folder``.
    4. A file whose name ends in .tar, or a pattern such as ``train-{000..012}.tar``, is a ``tar``.
    5. Any other file is a ``table`` if its columns hold texts, and else a ``manifest``.

    Raises:
        StreamError: there is nothing at ``path``, or the folder can't be read.

    Example:
        ``detect_source("data/train-{000..012}.tar")`` is ``"tar"``.
    """
    source = str(path)
    if os.path.isdir(source):
        try:
            names = [name.lower() for name in os.listdir(source)]
        except OSError as error:
            raise StreamError(f"{source}: {error.strerror}: make it readable or give another folder") from None
        if set(names) & set(MODALITIES):
            return "folder"
        if set(names) & set(MANIFEST_NAMES):
            return "manifest"
        for kind, endings in (("tar", TAR_ENDINGS), ("table", TABLE_ENDINGS)):
            if any(name.endswith(endings) for name in names):
                return kind
        return "folder"
    if source.lower().endswith(TAR_ENDINGS) or any(sign in source for sign in "{*?"):
        return "tar"
    if os.path.exists(source):
        return "table" if is_text_table(Path(source)) else "manifest"
    raise StreamError(f"{source}: no such folder, manifest, table, tar or config")
