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
        "@sharebin",  # Asustor
        "$recycle.bin",
        "system volume information",
        "wpsettings.dat",
        "found.000",
        "lost.dir",  # Android
        "lost+found",
        "__macosx",
        "network trash folder",
        "temporary items",
        "thevolumesettingsfolder",
        "albumartsmall.jpg",  # Windows Media Player
        "__pycache__",
    )
)
_CLUTTER_STARTS = ("._", "~$", ".~lock", "~syncthing~", "synofile_thumb_", "synoindex_", "albumart_{")
_HIDDEN_STARTS = (".fuse_hidden", ".nfs", ".trash", ".syncthing.")
_HIDDEN = frozenset(
    (
        ".ds_store",
        ".appledouble",
        ".apdisk",
        ".directory",
        ".dropbox",
        ".dropbox.cache",
        ".fseventsd",
        ".ipynb_checkpoints",
        ".localized",
        ".nomedia",
        ".spotlight-v100",
        ".stfolder",
        ".stignore",
        ".stversions",
        ".temporaryitems",
        ".thumbnails",
        ".tmp.driveupload",
        ".@__thumb",
    )
)
# Half a download, what a synchronisation has not finished, an editor's copy.
_CLUTTER_ENDS = (".part", ".partial", ".crdownload", ".download", ".!ut", ".aria2", ".lftp-pget-status", "~")


def is_system_file(name: str) -> bool:
    """Whether a system, a network drive or a browser leaves files or folders of this name: ``Thumbs.db``, ``@eaDir``.

    ``name``: the last part of a path. Walks pass over every name that begins with a dot; only some of them count here.
    """
    name = name.casefold()
    return (
        name.startswith(_CLUTTER_STARTS + _HIDDEN_STARTS)
        or name.endswith(_CLUTTER_ENDS)
        or name in _CLUTTER
        or name in _HIDDEN
    )
