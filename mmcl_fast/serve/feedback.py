"""The folder of feedback: files with their right labels, in the layout ``<modality>/<class>/<file>``.

``mmcl-fast learn RUN FOLDER`` reads this layout. A file is named by the sha256 of its content, so equal content is
kept once. A file is written below a hidden folder and then renamed, so that no reader finds half of it.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from mmcl_fast import atomic_files
from mmcl_fast.errors import RunError, UserError, did_you_mean
from mmcl_fast.media import MODALITIES, formats
from mmcl_fast.media.system_files import is_system_file
from mmcl_fast.serve.body import RequestRefused
from mmcl_fast.serve.limits import Feedback
from mmcl_fast.streams.name_forms import fold_name, normalize_name
from mmcl_fast.streams.sources.folder import SPLIT_WORDS

INCOMING = ".incoming"  # files that are being written; readers of folders pass over hidden names
MAX_LABEL, MAX_LABEL_BYTES = 100, 200  # characters; bytes in UTF-8, because a folder's name has 255 at most
FOLDER_ADVICE = "give --feedback a new folder"


@dataclass(frozen=True)
class Kept:
    """The outcome of keeping a file.

    Attributes:
        key: the file's path below the folder.
        new: False if the folder had the content already.
        class_files: number of files of its class.
        files: number of all files.
        bytes: their size.
    """

    key: str
    new: bool
    class_files: int
    files: int
    bytes: int


class FeedbackFolder:
    """Keeps files with labels within limits. Any thread may use it. Only one server may write to a folder.

    Args:
        settings: the folder and its limits.

    Raises:
        UserError: the folder can't be written, or holds something else.
    """

    def __init__(self, settings: Feedback) -> None:
        self.settings, self.root = settings, Path(settings.folder)
        self._lock = threading.Lock()
        if settings.max_files < 1 or settings.max_bytes < 1:
            raise UserError("--feedback-max-files and --feedback-max-bytes: give numbers above 0")
        try:
            atomic_files.make_folder(self.root)
            self._require_own_folder()
            atomic_files.make_folder(self.root / INCOMING)
            atomic_files.replace_file(self.root / INCOMING / "test", b"")
            for left in (self.root / INCOMING).iterdir():  # of a server that was killed
                left.unlink()
            self._scan()
        except (RunError, OSError) as fault:
            raise UserError(f"--feedback {self.root}: {fault}: {FOLDER_ADVICE}") from None

    def _require_own_folder(self) -> None:
        """Check that everything in the folder has the layout of feedback. Raises UserError."""
        for entry in self._folders(self.root, files=True):
            if entry.name not in MODALITIES or not entry.is_dir():
                raise UserError(f"--feedback {self.root}: holds {entry.name!r}, which is no feedback: {FOLDER_ADVICE}")
            for inner in self._folders(Path(entry), files=True):
                if inner.name.lower() in SPLIT_WORDS or not inner.is_dir():
                    line = f"holds {entry.name}/{inner.name}, which is no class of feedback"
                    raise UserError(f"--feedback {self.root}: {line}: {FOLDER_ADVICE}")

    @staticmethod
    def _folders(folder: Path, files: bool = False) -> Iterator[os.DirEntry[str]]:
        """Yield the folders in a folder, and its files too if asked for, without hidden ones."""
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if entry.name[0] != "." and (files or entry.is_dir()))

    def _scan(self) -> None:
        """Read what the folder holds."""
        self._places: dict[str, Path] = {}  # digest of the content -> file
        self._sizes: dict[Path, int] = {}
        for modality in self._folders(self.root):
            for label in self._folders(Path(modality)):
                for entry in os.scandir(label):
                    if entry.is_file():
                        self._places[entry.name.partition(".")[0]] = Path(entry)
                        self._sizes[Path(entry)] = entry.stat().st_size
        self._identity = _identity(self.root)

    def choose_label(self, label: str, modality: str, learned: Mapping[str, Set[str]]) -> str:
        """Return the name of the class that a label stands for.

        Args:
            label: as a client sent it.
            modality: the sample's modality.
            learned: the names of the classes that the model has learned, by modality.

        Raises:
            RequestRefused: no such class, or no name for a folder.
        """
        label, known = normalize_name(label), learned.get(modality, frozenset())
        fault = _name_fault(label)
        if fault:
            raise RequestRefused(422, f"label {label[:MAX_LABEL]!a}: {fault}")
        if label in known:
            return label
        if not self.settings.new_classes:
            advice = did_you_mean(label, known) or " (GET /healthz lists the classes)"
            raise RequestRefused(422, f"label {label!a}: no class of {modality} that was learned{advice}")
        if not label.isprintable():
            raise RequestRefused(422, f"label {label!a}: has characters that can't be seen: leave them out")
        folder = self.root / modality
        kept = {entry.name for entry in self._folders(folder)} if folder.is_dir() else set[str]()
        alike = {fold_name(name): name for name in (*sorted(kept), *sorted(known))}
        found = alike.get(fold_name(label), label)
        if found != label and label not in kept:
            raise RequestRefused(422, f"label {label!a}: reads like the class {found!a}: use that name")
        return label

    def keep(self, data: bytes, modality: str, label: str) -> Kept:
        """Keep a file that was decoded without an error.

        Args:
            data: its content.
            modality: its modality.
            label: a name from ``choose_label``.

        Raises:
            RequestRefused: the folder is full, can't be written, or has the content with another label.
        """
        digest = hashlib.sha256(data).hexdigest()
        target = self.root / modality / label / (digest + _ending(data, modality))
        with self._lock:
            try:
                if _identity(self.root) != self._identity:  # its owner moved it away to learn from it
                    atomic_files.make_folder(self.root)
                    self._scan()
                if digest in self._places and not self._places[digest].exists():
                    self._scan()  # its owner removed the file, perhaps to correct the label
                other = self._places.get(digest)
                if other is not None:
                    if other.parent != target.parent:
                        where = "/".join(other.parts[-3:-1])
                        raise RequestRefused(409, f"this content is kept as {where!a} already: remove it there first")
                    return self._kept(other, new=False)
                if not self._has_room(len(data)):
                    self._scan()  # its owner may have removed files
                    if not self._has_room(len(data)):
                        line = (
                            f"{len(self._sizes)} files of feedback, {sum(self._sizes.values())} bytes: no room for more"
                        )
                        raise RequestRefused(507, f"{line}; the server's owner has to learn from them and remove them")
                self._write(target, data)
            except (RunError, OSError) as fault:
                reason = (fault.strerror if isinstance(fault, OSError) else "") or "it is not writable"
                raise RequestRefused(507, f"feedback can't be kept ({reason}): tell the server's owner") from None
            self._places[digest], self._sizes[target] = target, len(data)
            return self._kept(target, new=True)

    def _kept(self, file: Path, new: bool) -> Kept:
        of_class = sum(other.parent == file.parent for other in self._sizes)
        key = file.relative_to(self.root).as_posix()
        return Kept(key, new, of_class, len(self._sizes), sum(self._sizes.values()))

    def _has_room(self, size: int) -> bool:
        fits = sum(self._sizes.values()) + size <= self.settings.max_bytes
        return fits and len(self._sizes) < self.settings.max_files

    def _write(self, target: Path, data: bytes) -> None:
        temporary = self.root / INCOMING / target.name
        temporary.parent.mkdir(exist_ok=True)
        try:
            atomic_files.write_file(temporary, data)
            atomic_files.make_folder(target.parent)
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        atomic_files.sync_path(target.parent)


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return which folder has this path now; None if there is none."""
    try:
        found = os.stat(folder)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _name_fault(label: str) -> str:
    """Return the reason why a label can't be the name of a class folder; empty if it can."""
    if not label or len(label) > MAX_LABEL or len(label.encode(errors="replace")) > MAX_LABEL_BYTES:
        return f"a label has 1 to {MAX_LABEL} characters, and {MAX_LABEL_BYTES} bytes in UTF-8 at most"
    if any(c in "/\\" or ord(c) < 32 or ord(c) == 127 for c in label):
        return "a label has no slash, backslash or control character"
    if label.startswith(".") or label.strip() != label or is_system_file(label):
        return "readers of folders pass over this name, or cut it: choose another"
    if label.lower() in SPLIT_WORDS:
        return "folders of this name are splits, not classes: choose another"
    return ""


def _ending(data: bytes, modality: str) -> str:
    """Return the ending of a file name for this content, with its dot; empty if none fits."""
    if modality == "text":
        return ".txt"
    row = formats.recognise(data[: formats.HEAD])
    fitting = [e for e in (row.endings if row is not None else ()) if modality in formats.ENDINGS.get(e, ())]
    return f".{fitting[0]}" if fitting else ""
