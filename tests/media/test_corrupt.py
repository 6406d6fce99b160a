"""Thousands of broken files give an item of the right shape or one clean MediaError, without crash, hang or leak."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mmcl_fast.media import check, decode, sniff
from tests.media import corrupt
from tests.media.originals import originals
from tests.media.trial import digest, spec_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder, cases = tmp_path_factory.mktemp("corpus"), corrupt.cases(seed=0)
    for case in cases:
        (folder / case.name).write_bytes(case.data)
    (folder / "cases.json").write_text(json.dumps([(case.name, case.modality) for case in cases]))
    return folder


def results(corpus: Path, backend: str, first: int, step: int, passes: int = 1) -> list[dict]:
    """Return a process's results. Fail with the name of the current file if the process crashed or hung."""
    out, errors = (corpus / f"{name}-{backend}-{first}-{step}" for name in ("out", "errors"))
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.media.trial",
        str(corpus),
        backend,
        str(first),
        str(step),
        str(passes),
    ]
    with out.open("w") as out_file, errors.open("w") as error_file:
        code = subprocess.run(
            command, cwd=ROOT, stdout=out_file, stderr=error_file, env={**os.environ, "OMP_NUM_THREADS": "1"}
        ).returncode
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    at = lines[-1].get("start", "the end") if lines else "its start"
    assert code == 0, f"ended with {code} at {at}:\n{errors.read_text()[-3000:]}"
    return [line for line in lines if "start" not in line]


def judge(lines: list[dict]) -> None:
    faults = [f"{line['end']}: {line['fault']}" for line in lines if "fault" in line]
    assert not faults, "\n".join(faults)
    trials = [line for line in lines if "end" in line]
    late = [line["end"] for line in trials if line["check"] == "item" and "refused" in (line["decode"], line["view"])]
    assert not late, f"a check let pass what does not decode: {late}"
    passes = [line["pass"] for line in lines if "pass" in line]
    names = [line["end"] for line in trials]
    first, last = trials[: len(names) // len(passes)], trials[-len(names) // len(passes) :]
    assert first == last, f"not the same twice: {[a['end'] for a, b in zip(first, last) if a != b]}"
    assert passes[0]["files"] == passes[-1]["files"] and passes[0]["threads"] == passes[-1]["threads"], passes
    assert passes[-1]["kB"] - passes[0]["kB"] < 40_000, passes  # the leak of a frame for each file would be more


def test_the_corpus_is_large_distinct_and_of_its_seed(corpus):
    cases = corrupt.cases(seed=0)
    assert len(cases) >= 2000
    assert len({(case.data, case.modality, Path(case.name).suffix) for case in cases}) == len(cases)
    again, other = corrupt.cases(seed=0), corrupt.cases(seed=1)
    assert [case.name for case in cases] == [case.name for case in again]
    assert [case.data for case in cases[:99]] != [case.data for case in other[:99]]


def test_the_originals_know_no_time():
    """Otherwise each run would try another corpus."""
    before = {file.name: file.data for file in originals()}
    time.sleep(1.1)
    assert [file.name for file in originals() if file.data != before[file.name]] == []


def test_the_originals_are_sound():
    """Otherwise a corpus made of them would prove nothing."""
    for file in originals():
        assert sniff(file.data) == file.modality, file.name
        check(file.data, file.modality, spec_of(file.modality))
        digest(decode(file.data, file.modality, spec_of(file.modality)), spec_of(file.modality))


def test_a_part_of_the_corpus(corpus):
    lines = results(corpus, "none", 0, 30, passes=2)
    judge(lines)
    kinds = {line["decode"] for line in lines if "end" in line}
    assert kinds == {"item", "refused"}


@pytest.mark.slow
def test_the_whole_corpus(corpus):
    with ThreadPoolExecutor(2) as pool:
        for lines in pool.map(lambda half: results(corpus, "none", half, 2, passes=2), range(2)):
            judge(lines)


@pytest.mark.parametrize("backend", ["cpu", "dali"])
def test_the_loader_hands_out_nothing_partial(corpus, backend):
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    *modalities, left = results(corpus, backend, 7, 25)
    assert [line["end"] for line in modalities] == ["audio", "depth", "image", "text", "video"]
    for line in modalities:
        assert 0 < line["sound"] < line["items"]
        assert not line["only cpu"], line
        if backend == "cpu":
            assert not line["only here"] and not line["unequal"], line
    if backend == "cpu":
        assert left["left"][0] == left["left"][1], left
