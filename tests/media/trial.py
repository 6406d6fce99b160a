"""A process that decodes broken files and reports each result, run by ``test_corrupt``.

``python -m tests.media.trial FOLDER BACKEND FIRST STEP PASSES`` reads ``FOLDER/cases.json``, a list of [name,
modality]. It takes the files FIRST, FIRST + STEP, and so on. BACKEND ``none`` decodes each file by itself, PASSES
times. Another backend's loader decodes all of them.
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
MEMORY = 250  # additional MB for one file; the limit of pixels allows a tenth of it
ADVICE = re.compile(r"(replace|remove|move|convert|smaller|shrink|raise|cut|check|use|save|install)\b")


def spec_of(modality: str) -> Spec:
    """Return a spec with a small result and small limits, so that thousands of files take seconds."""
    if modality == "text":
        return TextSpec(max_chars=200)
    sound = {"sample_rate": 8000, "seconds": 0.2, "n_fft": 256, "hop": 80, "mels": 32} if modality == "audio" else {}
    return plain(modality, 32, frames=4 if modality == "video" else 1, max_pixels=2_000_000, max_seconds=60, **sound)


def outcome(work, path: Path) -> tuple[str, str]:
    """Return ("item", its digest) or ("refused", the message). Any other exception is raised."""
    try:
        return "item", work()
    except MediaError as error:
        line = str(error)
        assert line.startswith(f"{path}: ") and line.isprintable() and len(line) < 600 + len(str(path)), repr(line)
        assert ADVICE.search(line.removeprefix(str(path))), f"no advice: {line}"
        return "refused", line


def digest(item: torch.Tensor | str, spec: Spec) -> str:
    """Return the digest of an item after a check of its shape and values."""
    if isinstance(spec, TextSpec):
        assert isinstance(item, str) and 0 < len(item) <= spec.max_chars and "\0" not in item
        return hashlib.md5(item.encode()).hexdigest()
    assert isinstance(item, torch.Tensor)
    assert item.shape == spec.shape and item.dtype == torch.float32, (item.shape, item.dtype)
    assert item.isfinite().all(), "not finite"
    assert item.min() >= -1e-4 and item.max() <= 1 + 1e-4, (item.min(), item.max())
    return hashlib.md5(item.numpy().tobytes()).hexdigest()


def try_file(path: Path, modality: str) -> dict[str, str]:
    """Return the results of decoding with and without a random view, of checking and of sniffing."""
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
    """Return the resident kB now (VmRSS), or the maximum since ``forget`` (VmHWM)."""
    return int(re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def reset_peak_memory() -> None:
    Path("/proc/self/clear_refs").write_text("5")


@dataclass
class Item:
    modality: str
    key: str
    path: Path
    text: None = None


def one_by_one(chosen: list[Item], passes: int) -> None:
    """Print JSON before and after each file, so that a crash or hang can be attributed, and after each pass."""
    for _ in range(passes):
        for item in chosen:
            faulthandler.dump_traceback_later(LIMIT, exit=True)
            print(json.dumps({"start": item.key}), flush=True)
            reset_peak_memory()
            before = memory("VmRSS")
            try:
                found = try_file(item.path, item.modality)
            except BaseException as error:  # reported in the result; the next file follows
                found = {"fault": f"{type(error).__name__}: {error}"}
            if memory("VmHWM") - before > MEMORY * 1000:
                found["fault"] = f"took {(memory('VmHWM') - before) // 1000} MB"
            print(json.dumps({"end": item.key, **found}), flush=True)
        state = {"kB": memory("VmRSS"), "files": len(os.listdir("/proc/self/fd")), "threads": threading.active_count()}
        print(json.dumps({"pass": state}), flush=True)


def in_batches(chosen: list[Item], backend: str) -> None:
    """Print the loader's results as JSON: one line for each modality, and one line of open resources."""
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
    """Return where a loader with on_error="error" stops: complete batches, then the first broken item's error."""
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
