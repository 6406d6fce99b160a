"""A process that decodes broken files and says what came of each: run by ``test_corrupt``.

``python -m tests.media.trial FOLDER FIRST STEP PASSES``: of ``FOLDER/cases.json``, a list of [name, modality], the files
FIRST, FIRST + STEP, ... Prints a line of JSON before and after each; a crash or a hang so names its file.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import re
import sys
import threading
from pathlib import Path

import torch

from mmcl_fast.errors import MediaError
from mmcl_fast.media import MODALITIES, Spec, TextSpec, check, decode, sniff
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
    if isinstance(item, str):
        assert 0 < len(item) <= spec.max_chars and "\0" not in item
        return hashlib.md5(item.encode()).hexdigest()
    assert item.shape == spec.shape and item.dtype == torch.float32, (item.shape, item.dtype)
    assert item.isfinite().all(), "not finite"
    assert -1e-4 <= item.min() and item.max() <= 1 + 1e-4, (item.min(), item.max())
    return hashlib.md5(item.numpy().tobytes()).hexdigest()


def trial(path: Path, modality: str) -> dict[str, str]:
    """What decoding as it is and in a view, checking and sniffing come to."""
    spec = spec_of(modality)
    found = {}
    for name, view in (("decode", 0), ("view", 3)):
        found[name], found[f"{name} says"] = outcome(
            lambda view=view: digest(decode(path, modality, spec, view=view), spec), path)
    found["check"], found["check says"] = outcome(lambda: check(path, modality, spec) or "", path)
    found["sniff"], found["sniff says"] = outcome(lambda: sniff(path), path)
    assert found["sniff"] == "refused" or found["sniff says"] in MODALITIES
    return found


def memory(key: str) -> int:
    """Resident kB now (VmRSS) or at most since ``forget`` (VmHWM)."""
    return int(re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def forget() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    folder, first, step, passes = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    torch.set_num_threads(1)
    chosen = json.loads((folder / "cases.json").read_text())[first::step]
    for _ in range(passes):
        for name, modality in chosen:
            faulthandler.dump_traceback_later(LIMIT, exit=True)
            print(json.dumps({"start": name}), flush=True)
            forget()
            before = memory("VmRSS")
            try:
                found = trial(folder / name, modality)
            except BaseException as error:  # said in the result, the next file goes on
                found = {"fault": f"{type(error).__name__}: {error}"}
            if memory("VmHWM") - before > MEMORY * 1000:
                found["fault"] = f"took {(memory('VmHWM') - before) // 1000} MB"
            print(json.dumps({"end": name, **found}), flush=True)
        state = {"kB": memory("VmRSS"), "files": len(os.listdir("/proc/self/fd")), "threads": threading.active_count()}
        print(json.dumps({"pass": state}), flush=True)


if __name__ == "__main__":
    main()
