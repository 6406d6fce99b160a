"""Names of files and folders that operating systems and programs leave between a user's files."""

from __future__ import annotations

# Names that operating systems, file managers and network drives make, never a user; all are case-folded.
_NAMES = frozenset(
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
_STARTS = ("._", "~$", ".~lock", "~syncthing~", "synofile_thumb_", "synoindex_", "albumart_{")
_HIDDEN_STARTS = (".fuse_hidden", ".nfs", ".trash", ".syncthing.")
_HIDDEN_NAMES = frozenset(
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
# An unfinished download or synchronisation, and an editor's backup copy.
_ENDS = (".part", ".partial", ".crdownload", ".download", ".!ut", ".aria2", ".lftp-pget-status", "~")


def is_system_file(name: str) -> bool:
    """Return whether a system, a network drive or a browser makes files or folders of this name.

    Examples are ``Thumbs.db`` and ``@eaDir``. Of the names that begin with a dot only well-known ones count here; the
    readers of folders skip them all.

    Args:
        name: the last part of a path.
    """
    name = name.casefold()
    return name.startswith(_STARTS + _HIDDEN_STARTS) or name.endswith(_ENDS) or name in _NAMES or name in _HIDDEN_NAMES
