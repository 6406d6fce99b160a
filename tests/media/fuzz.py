"""Fuzzing of the way that uploads take: workers recognise, check and decode mutated files of every format.

python -m tests.media.fuzz [--count N] [--seed S] [--workers W] [--keep FOLDER]

Each file must give an item or one clean line. A file that kills its worker is counted and kept, because isolation
caught a bug of a decoder. Anything else is a bug of this package, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path

import torch

from mmcl_fast.media import MODALITIES
from mmcl_fast.media.engines.isolation import DecodeLimits, DecoderDied, Job, Outcome, Pool
from tests.media.corrupt import Case, cases
from tests.media.trial import ADVICE, digest, spec_of

LIMITS = DecodeLimits(max_decode_mb=500, max_decode_seconds=20, max_decode_wait=60)
TOGETHER = 16


@dataclass
class Found:
    """Numbers of ``items`` and ``errors``, files that killed a worker, and bugs of this package (``faults``)."""

    items: int = 0
    errors: int = 0
    killers: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)


def mutated(amount: int, seed: int) -> Iterator[Case]:
    """Return ``count`` distinct cases of every format, in an order drawn from the seed."""
    return islice((case for own in count(seed) for case in cases(own)), amount)


def fuzz(chosen: list[Case], workers: int, keep: Path | None = None, say: float = 0.0) -> Found:
    """Try each case; ``say``: seconds between lines of progress, 0 for none."""
    found, said = Found(), time.monotonic()
    groups = [chosen[i : i + TOGETHER] for i in range(0, len(chosen), TOGETHER)]
    with Pool(workers, LIMITS) as pool, ThreadPoolExecutor(workers) as threads:
        for number, (group, outcomes) in enumerate(zip(groups, threads.map(lambda g: make_jobs(pool, g), groups))):
            for case, tried in zip(group, outcomes):
                judge(case, tried, found, keep)
            if say and time.monotonic() > said + say:
                said = time.monotonic()
                print(
                    f"{number * TOGETHER} files, {len(found.killers)} killers, {len(found.faults)} faults", flush=True
                )
        found.kinds.update(pool.deaths)
    return found


def make_jobs(pool: Pool, group: list[Case]) -> list[list[Outcome] | Exception]:
    """Return three jobs for each case: recognise and decode, check, and decode as the given modality."""
    specs = {modality: spec_of(modality) for modality in ("image", "video", "audio", "depth", "text")}
    jobs = []
    for case in group:
        own = {case.modality: specs[case.modality]}
        jobs += [
            Job(case.data, None, specs),
            Job(case.data, case.modality, own, check_only=True),
            Job(case.data, case.modality, own, view=1),
        ]
    try:
        outcomes = pool.run(jobs)
    except Exception as fault:
        if len(group) == 1:
            return [fault]
        return [found for case in group for found in make_jobs(pool, [case])]
    return [outcomes[i : i + 3] for i in range(0, len(outcomes), 3)]


def judge(case: Case, tried: list[Outcome] | Exception, found: Found, keep: Path | None) -> None:
    if isinstance(tried, Exception):
        found.faults.append(f"{case.name}: {type(tried).__name__}: {tried}")
        return
    for what, outcome in zip(("found", "check", "decode"), tried):
        line = str(outcome.error or "")
        if outcome.error is None:
            found.items += 1
            if outcome.modality not in MODALITIES:
                found.faults.append(f"{case.name}: {what}: modality {outcome.modality!r}")
            elif what != "check":
                try:
                    assert isinstance(outcome.data, (torch.Tensor, str))
                    digest(outcome.data, spec_of(outcome.modality))
                except AssertionError as fault:
                    found.faults.append(f"{case.name}: {what}: {fault!r}")
            continue
        found.errors += 1
        name = f"<{len(case.data)} bytes>: "
        if not (line.startswith(name) and line.isprintable() and len(line) < 600 and ADVICE.search(line)):
            found.faults.append(f"{case.name}: {what}: {line!r}")
        if isinstance(outcome.error, DecoderDied):
            found.killers[f"{case.name} as {case.modality}, {what}"] = line
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / case.name).write_bytes(case.data)
    check, decoded = tried[1], tried[2]
    if check.error is None and decoded.error is not None:
        found.faults.append(f"{case.name}: a check let pass what does not decode: {decoded.error}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.media.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="a folder for the files that end their worker")
    told = parser.parse_args()
    begun = time.monotonic()
    found = fuzz(list(mutated(told.count, told.seed)), told.workers, told.keep, say=30)
    counts = {"files": told.count, "items": found.items, "errors": found.errors, "workers that ended": found.kinds}
    print(json.dumps({**counts, "seconds": round(time.monotonic() - begun)}))
    for name, line in found.killers.items():
        print(f"killer: {name}: {line}")
    for fault in found.faults:
        print(f"fault: {fault}")
    return int(bool(found.faults))


if __name__ == "__main__":
    sys.exit(main())
