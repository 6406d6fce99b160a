"""Names of files and folders that systems leave behind beside the user's own."""

from __future__ import annotations

# Made by operating systems, file managers and network drives, never by the user: casefolded names.
_CLUTTER = frozenset(
    (
        "thumbs.db",
        "thumbs.db:encryptable",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "picasa.ini",
        "zbthumbnail.info",
        "icon\r",
        "synofile_thumb",
        "@eadir",  # Synology
        "@tmp",
        "#recycle",
        "#snapshot",
        "@recycle",  # QNAP
        "@recently-snapshot",
        "@__thumb",
        "$recycle.bin",
        "system volume information",
        "found.000",
        "lost+found",
        "__macosx",
        "network trash folder",
        "temporary items",
        "__pycache__",
    )
)
_CLUTTER_STARTS = ("._", "~$", "synofile_thumb_", "synoindex_", ".fuse_hidden", ".nfs", ".trash")


def is_clutter(name: str) -> bool:
    """Whether an operating system or a network drive leaves files or folders of this name: ``Thumbs.db``, ``@eaDir``.

    ``name``: the last part of a path. Hidden names such as ``.DS_Store`` count as well.
    """
    name = name.casefold()
    return name.startswith(_CLUTTER_STARTS) or name in _CLUTTER or name in (".ds_store", ".directory", ".nomedia")
