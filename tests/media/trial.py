"""A process that decodes broken files and says what came of each: run by ``test_corrupt``.

``python -m tests.media.trial FOLDER BACKEND FIRST STEP PASSES``: of ``FOLDER/cases.json``, a list of
[name, modality], the files FIRST, FIRST + STEP, ...: each by itself, PASSES times (BACKEND ``none``), or all through
that backend's loader.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import re
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import torch

from mmcl_fast.errors import MediaError
from mmcl_fast.media import MODALITIES, Spec, TextSpec, check, decode, loader, sniff
from tests.media.files import plain

LIMIT = 30  # seconds for one file; a good one takes some milliseconds
MEMORY = 250  # MB that one file may take on top; the limit of pixels allows a tenth of that
ADVICE = re.compile(r"(replace|remove|move|convert|smaller|shrink|raise|cut|check|use|save|install)\b")


def spec_of(modality: str) -> Spec:
    """Small results and small limits, so that thousands take seconds and absurd sizes are absurd."""
    if modality == "text":
        return TextSpec(max_chars=200)
    sound = {"sample_rate": 8000, "seconds": 0.2, "n_fft": 256, "hop": 80, "mels": 32} if modality == "audio" else {}
    return plain(modality, 32, frames=4 if modality == "video" else 1, max_pixels=2_000_000, max_seconds=60, **sound)


def outcome(work, path: Path) -> tuple[str, str]:
    """("item", its digest) or ("refused", the message); anything else raises."""
    try:
        return "item", work()
    except MediaError as error:
        line = str(error)
        assert line.startswith(f"{path}: ") and line.isprintable() and len(line) < 600 + len(str(path)), repr(line)
        assert ADVICE.search(line.removeprefix(str(path))), f"no advice: {line}"
        return "refused", line


def digest(item: torch.Tensor | str, spec: Spec) -> str:
    """Of an item that is whole, finite and in range."""
    if isinstance(spec, TextSpec):
        assert isinstance(item, str) and 0 < len(item) <= spec.max_chars and "\0" not in item
        return hashlib.md5(item.encode()).hexdigest()
    assert isinstance(item, torch.Tensor)
    assert item.shape == spec.shape and item.dtype == torch.float32, (item.shape, item.dtype)
    assert item.isfinite().all(), "not finite"
    assert item.min() >= -1e-4 and item.max() <= 1 + 1e-4, (item.min(), item.max())
    return hashlib.md5(item.numpy().tobytes()).hexdigest()


def trial(path: Path, modality: str) -> dict[str, str]:
    """What decoding as it is and in a view, checking and sniffing come to."""
    spec = spec_of(modality)
    found = {}
    for name, view in (("decode", 0), ("view", 3)):
        found[name], found[f"{name} says"] = outcome(
            lambda view=view: digest(decode(path, modality, spec, view=view), spec), path
        )
    found["check"], found["check says"] = outcome(lambda: check(path, modality, spec) or "", path)
    found["sniff"], found["sniff says"] = outcome(lambda: sniff(path), path)
    assert found["sniff"] == "refused" or found["sniff says"] in MODALITIES
    return found


def memory(key: str) -> int:
    """Resident kB now (VmRSS) or at most since ``forget`` (VmHWM)."""
    return int(re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def forget() -> None:
    Path("/proc/self/clear_refs").write_text("5")


@dataclass
class Item:
    modality: str
    key: str
    path: Path
    text: None = None


def one_by_one(chosen: list[Item], passes: int) -> None:
    """A line of JSON before and after each file, so that a crash or a hang names it, and one after each pass."""
    for _ in range(passes):
        for item in chosen:
            faulthandler.dump_traceback_later(LIMIT, exit=True)
            print(json.dumps({"start": item.key}), flush=True)
            forget()
            before = memory("VmRSS")
            try:
                found = trial(item.path, item.modality)
            except BaseException as error:  # said in the result, the next file goes on
                found = {"fault": f"{type(error).__name__}: {error}"}
            if memory("VmHWM") - before > MEMORY * 1000:
                found["fault"] = f"took {(memory('VmHWM') - before) // 1000} MB"
            print(json.dumps({"end": item.key, **found}), flush=True)
        state = {"kB": memory("VmRSS"), "files": len(os.listdir("/proc/self/fd")), "threads": threading.active_count()}
        print(json.dumps({"pass": state}), flush=True)


def in_batches(chosen: list[Item], backend: str) -> None:
    """What the loader makes of the files: a line of JSON for each modality, and one of what is left open."""
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for modality in sorted({item.modality for item in chosen}):
        faulthandler.dump_traceback_later(10 * LIMIT, exit=True)
        print(json.dumps({"start": modality}), flush=True)
        spec, items = spec_of(modality), [item for item in chosen if item.modality == modality]
        want = {
            number: outcome(lambda item=item: digest(decode(item.path, modality, spec), spec), item.path)
            for number, item in enumerate(items)
        }
        sound = {number for number, (kind, _) in want.items() if kind == "item"}
        skip = loader(items, spec, backend=backend, batch_size=40, on_error="skip")  # DALI crashed over more than 31
        got = {number: digest(item, spec) for numbers, batch in skip for number, item in zip(numbers, batch)}
        said = {number: str(error) for number, error in skip.faults}
        assert sorted([*got, *said]) == list(range(len(items))), "an item lost or handed out twice"
        assert all(line.startswith(f"{items[number].path}: ") for number, line in said.items())
        unequal = sorted(items[n].key for n in sound & set(got) if got[n] != want[n][1])
        print(
            json.dumps(
                {
                    "end": modality,
                    "items": len(items),
                    "sound": len(sound),
                    "unequal": unequal,
                    "only here": sorted(items[n].key for n in set(got) - sound),
                    "only cpu": sorted(items[n].key for n in sound - set(got)),
                }
            ),
            flush=True,
        )
        first, rounds = 0, 0
        while first < len(items) and rounds < 8:
            first, rounds = first + stopped_at(items[first:], spec, backend, set(got), first) + 1, rounds + 1
    print(json.dumps({"left": [before, (len(os.listdir("/proc/self/fd")), threading.active_count())]}), flush=True)


def stopped_at(items: list[Item], spec: Spec, backend: str, sound: set[int], first: int) -> int:
    """Where a loader stops that is not to skip: whole batches come before, then the first broken item's error."""
    broken = next((n for n in range(len(items)) if first + n not in sound), len(items))
    seen: list[int] = []
    try:
        for numbers, batch in loader(items, spec, backend=backend, batch_size=16):
            assert len(numbers) == len(batch) == min(16, len(items) - len(seen))
            seen += numbers
        assert broken == len(items), f"{items[broken].key} was not refused"
    except MediaError as error:
        assert str(error).startswith(f"{items[broken].path}: ")
    assert seen == list(range(broken // 16 * 16 if broken < len(items) else len(items)))
    return broken


def main() -> None:
    folder, backend, (first, step, passes) = Path(sys.argv[1]), sys.argv[2], map(int, sys.argv[3:6])
    torch.set_num_threads(1)
    chosen = [
        Item(modality, name, folder / name)
        for name, modality in json.loads((folder / "cases.json").read_text())[first::step]
    ]
    if backend == "none":
        one_by_one(chosen, passes)
    else:
        in_batches(chosen, backend)


if __name__ == "__main__":
    main()
