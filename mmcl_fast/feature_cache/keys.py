"""Keys of samples in the feature cache, and a table that finds where a key's features are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mmcl_fast.media.spec import LIMIT_SETTINGS, Spec

NO_PLACE = -1


class KeyTable:
    """16-byte keys -> places (int64 >= 0) in sorted arrays: 24 bytes an entry. Of equal keys the first one counts."""

    def __init__(self) -> None:
        self._keys, self._places = np.empty((0, 2), np.uint64), np.empty(0, np.int64)
        self._added: list[tuple[np.ndarray, np.ndarray]] = []  # not sorted in yet

    def add(self, keys: np.ndarray, places: np.ndarray) -> None:
        """Add keys ``[n, 16]`` uint8 with their places ``[n]``."""
        self._added.append((np.ascontiguousarray(keys).view(np.uint64), places.astype(np.int64)))

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the places ``[n]`` of keys ``[n, 16]`` uint8, NO_PLACE for an unknown key."""
        self._merge()
        wanted = np.ascontiguousarray(keys).view(np.uint64)
        out = np.full(len(wanted), NO_PLACE)
        first, last = self._keys[:, 0], len(self._keys) - 1
        at, unresolved = np.searchsorted(first, wanted[:, 0]), np.arange(len(wanted))
        # The table is sorted by the first half of a key alone: step through the entries that share it.
        while len(unresolved):
            unresolved = unresolved[at[unresolved] <= last]
            unresolved = unresolved[first[at[unresolved]] == wanted[unresolved, 0]]
            hit = self._keys[at[unresolved], 1] == wanted[unresolved, 1]
            out[unresolved[hit]] = self._places[at[unresolved[hit]]]
            unresolved = unresolved[~hit]
            at[unresolved] += 1
        return out

    def keep(self, is_wanted: Callable[[np.ndarray], np.ndarray]) -> None:
        """Drop all entries except where ``is_wanted(places)`` is True."""
        self._merge()
        chosen = is_wanted(self._places)
        self._keys, self._places = self._keys[chosen], self._places[chosen]

    def _merge(self) -> None:
        if self._added:
            keys = np.concatenate([self._keys, *(k for k, _ in self._added)])
            places = np.concatenate([self._places, *(p for _, p in self._added)])
            order = np.argsort(keys[:, 0], kind="stable")  # stable: of equal keys the first stays first
            self._keys, self._places, self._added = keys[order], places[order], []


def sample_keys(samples: Sequence[Any], contents: Sequence[bytes], spec: Spec, *, view: int, seed: int) -> list[bytes]:
    """Return a key of 16 bytes for each sample: blake2b of its content, its preparation and its view.

    A random view is drawn from (seed, view, the sample's key), so these three count for it. A text has no random view.

    Args:
        samples: the samples; only ``key`` is read.
        contents: their digests from ``ContentHashes.digests``.
        spec: the preparation. Its limits do not count, because they change no number.
        view: 0 is the plain view.
        seed: of the random views.
    """
    view = 0 if spec.modality == "text" else view
    preparation = {k: v for k, v in spec.to_dict().items() if k not in LIMIT_SETTINGS}
    base = hashlib.blake2b(repr((preparation, (view, seed) if view else 0)).encode(), digest_size=16)
    out = []
    for sample, content in zip(samples, contents):
        digest = base.copy()
        digest.update(content + (sample.key.encode(errors="surrogatepass") if view else b""))
        out.append(digest.digest())
    return out
