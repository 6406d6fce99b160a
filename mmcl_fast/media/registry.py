"""The modalities that this process can decode: five built-in ones, and any that a user registers with a reader."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, overload

from mmcl_fast.errors import ConfigError

Reader = Callable[[BinaryIO], Any]

BUILT_IN = ("image", "video", "audio", "depth", "text")


class ModalityRegistry:
    """Names of modalities in a fixed order: the built-in ones first, then the registered ones with their readers."""

    def __init__(self) -> None:
        self._readers: dict[str, Reader] = {}

    def names(self) -> tuple[str, ...]:
        """Return the names of all modalities."""
        return (*BUILT_IN, *self._readers)

    def visual_names(self) -> tuple[str, ...]:
        """Return the names of the modalities that become images, which are all except text."""
        return tuple(name for name in self.names() if name != "text")

    def reader(self, name: str) -> Reader | None:
        """Return the function that was registered for a modality; None for a built-in or an unknown one."""
        return self._readers.get(name)

    def register(self, name: str, read: Reader) -> None:
        """Add a modality, or replace its reader; ``mmcl_fast.media.register`` describes both arguments.

        Raises:
            ConfigError: the name is malformed or built in, or the function has no source code.
        """
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise ConfigError(f"modality {name!r}: give a name of small letters, digits and _, a letter first")
        if name in BUILT_IN:
            raise ConfigError(f"modality {name!r}: has its own reader; give another name")
        source_hash(read)  # raises now, not when the feature cache asks for it
        self._readers[name] = read

    def unregister(self, name: str) -> None:
        """Remove a registered modality. Raises KeyError if no reader is registered for it."""
        del self._readers[name]

    def source_hashes(self) -> dict[str, str]:
        """Return ``source_hash`` of each registered reader by the name of its modality."""
        return {name: source_hash(read) for name, read in self._readers.items()}


class ModalityNames(Sequence[str]):
    """The names in a registry as a sequence that cannot be changed and that shows later registrations."""

    def __init__(self, registry: ModalityRegistry) -> None:
        self._registry = registry

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...

    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self._registry.names()[index]

    def __len__(self) -> int:
        return len(self._registry.names())

    def __iter__(self) -> Iterator[str]:
        return iter(self._registry.names())

    def __repr__(self) -> str:
        return repr(list(self))


def source_hash(read: Reader) -> str:
    """Return the sha256 of the source file that defines a reader, or of its source code where it has no file.

    Raises:
        ConfigError: the function has no source code.
    """
    try:
        file = inspect.getsourcefile(read)
        code = Path(file).read_bytes() if file and Path(file).is_file() else inspect.getsource(read).encode()
    except (OSError, TypeError):
        raise ConfigError(f"{read!r}: its source code is not to be found; define the reader in a .py file") from None
    return hashlib.sha256(code).hexdigest()


REGISTRY = ModalityRegistry()  # the registry of this process; ``mmcl_fast.media.register`` adds to it
MODALITIES = ModalityNames(REGISTRY)
