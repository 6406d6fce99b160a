"""Compares the cost of small calls of the operations in this checkout and in another one.

python -m benchmarks.call_cost OTHER_CHECKOUT [--select WORDS] [--pairs N] [--rounds N] [--out NAME]

The other checkout needs its compiled extension. Each pair is two processes, one for each checkout, that take turns in
blocks of calls. A ratio is the time here over the time there; a pair's ratio is the median over its rounds. The table
has the median over the pairs, and the smallest and the largest ratio of a pair.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

BACKENDS = ("auto", "cpp", "reference")
ROWS, CLASSES, WIDTH, MODALITIES, RANK = 8, 10, 64, 3, 4
BLOCK_SECONDS = 0.01  # of one turn: short, so that both processes see the same state of the machine
COLUMNS = ["call", "backend", "before, us", "after, us", "ratio", "smallest to largest ratio"]
HERE = Path(__file__).resolve().parents[1]


class Case(NamedTuple):
    """A call of an operation with a backend."""

    call: str
    backend: str

    @property
    def label(self) -> str:
        return f"{self.call}, {self.backend}"


class Times(NamedTuple):
    """One case: medians over all rounds in microseconds, and the ratio of each pair of processes."""

    case: Case
    before: float
    after: float
    ratios: list[float]


def calls() -> dict[str, Callable[[str], object]]:
    """Return every measured call by name, each a function of the backend. Runs in a worker."""
    import torch

    from mmcl_fast import ops

    g = torch.Generator().manual_seed(0)
    z, text = torch.randn(ROWS, WIDTH, generator=g), torch.randn(CLASSES, WIDTH, generator=g)
    labels = torch.randint(0, CLASSES, (ROWS,), generator=g)
    weight = torch.rand(ROWS, generator=g)
    adapters = {
        "gate": torch.rand(ROWS, MODALITIES, generator=g),
        "down": 0.1 * torch.randn(MODALITIES, WIDTH, RANK, generator=g),
        "up": 0.1 * torch.randn(MODALITIES, RANK, WIDTH, generator=g),
    }
    leaf, text_leaf, half_leaf = (x.clone().requires_grad_() for x in (z, text, z.bfloat16()))
    half_text = text.bfloat16()
    leaves = {name: x.clone().requires_grad_() for name, x in adapters.items()}
    upstream = torch.randn(ROWS, WIDTH, generator=g)

    def step(out: torch.Tensor, inputs: list[torch.Tensor], grad: torch.Tensor | None = None) -> object:
        return torch.autograd.grad(out, inputs, grad)

    def loss(z: torch.Tensor, text: torch.Tensor, backend: str, weight: torch.Tensor | None = None) -> torch.Tensor:
        return ops.alignment_loss(z, text, labels, weight=weight, logit_scale=20.0, backend=backend)

    return {
        "alignment_loss": lambda backend: loss(z, text, backend),
        "alignment_loss and backward": lambda backend: step(loss(leaf, text, backend), [leaf]),
        "alignment_loss and backward, weight and text gradient": lambda backend: step(
            loss(leaf, text_leaf, backend, weight=weight), [leaf, text_leaf]
        ),
        "alignment_loss and backward, bfloat16": lambda backend: step(loss(half_leaf, half_text, backend), [half_leaf]),
        "realign": lambda backend: ops.realign(z, **adapters, backend=backend),
        "realign and backward": lambda backend: step(
            ops.realign(leaf, **leaves, backend=backend), [leaf, *leaves.values()], upstream
        ),
    }


def work() -> None:
    """Print the checkout and the names of the calls. Then answer each line "COUNT\\tBACKEND\\tCALL" by microseconds."""
    import torch

    import mmcl_fast

    torch.set_num_threads(1)
    functions = calls()
    print(Path(mmcl_fast.__file__).resolve().parents[1], *functions, sep="\t", flush=True)
    for line in sys.stdin:
        count, backend, call = line.rstrip("\n").split("\t")
        function = functions[call]
        # Processor time of this thread: what other processes take meanwhile does not count.
        start = time.thread_time()
        for _ in range(int(count)):
            function(backend)
        print(1e6 * (time.thread_time() - start) / int(count), flush=True)


class Worker:
    """A process that calls the operations of one checkout; ends the program if it imports another mmcl_fast."""

    def __init__(self, checkout: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--worker"],
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        found, *self.calls = self._answer().split("\t")
        if Path(found) != checkout:
            self.close()  # else the process would wait for calls as long as this one lives
            raise SystemExit(f"{checkout}: Python imports mmcl_fast from {found}; pass the root folder of a checkout")

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the worker ended with code {self.process.wait()}: see its error above")
        return line.rstrip("\n")

    def microseconds(self, case: Case, count: int) -> float:
        """Return the processor time of one call, the mean of ``count``."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{count}\t{case.backend}\t{case.call}\n")
        self.process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@contextmanager
def pair(before: Path, after: Path) -> Iterator[tuple[Worker, Worker]]:
    """Start a worker in each checkout, and end both."""
    workers: list[Worker] = []
    try:
        for checkout in (before, after):
            workers.append(Worker(checkout))
        yield workers[0], workers[1]
    finally:
        for worker in workers:
            worker.close()


def measure(before: Path, after: Path, select: str, pairs: int, rounds: int) -> list[Times]:
    """Time every case whose label contains ``select``, in ``pairs`` fresh pairs of processes.

    One pair is not enough: where a process happens to lie in memory moves all its times by a few percent.
    """
    times: dict[Case, tuple[list[float], list[float], list[float]]] = {}
    for _ in range(pairs):
        with pair(before, after) as (old, new):
            for case in (Case(call, backend) for call in new.calls for backend in BACKENDS):
                if select not in case.label:
                    continue
                for worker in (old, new):
                    worker.microseconds(case, 20)  # warms caches and allocators
                count = max(1, int(1e6 * BLOCK_SECONDS / old.microseconds(case, 20)))
                olds: list[float] = []
                news: list[float] = []
                for turn in range(rounds):
                    # The order alternates, so that neither process is always the second one.
                    for worker, values in ((old, olds), (new, news))[:: 1 if turn % 2 else -1]:
                        values.append(worker.microseconds(case, count))
                all_olds, all_news, ratios = times.setdefault(case, ([], [], []))
                all_olds.extend(olds)
                all_news.extend(news)
                ratios.append(statistics.median(b / a for a, b in zip(olds, news, strict=True)))
    return [Times(case, statistics.median(a), statistics.median(b), ratios) for case, (a, b, ratios) in times.items()]


def table(times: list[Times]) -> list[list[str]]:
    """Return one line of the Markdown table for each case."""
    return [
        [
            *t.case,
            f"{t.before:.1f}",
            f"{t.after:.1f}",
            f"{statistics.median(t.ratios):.3f}",
            f"{min(t.ratios):.3f} to {max(t.ratios):.3f}",
        ]
        for t in times
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.call_cost", description=__doc__)
    parser.add_argument("before", type=Path, help="root folder of the other checkout, with its extension compiled")
    parser.add_argument("--select", default="", help="text that a case must contain: 'realign', ', cpp'")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of processes, default 5")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each pair and case, default 15")
    parser.add_argument("--out", help="name of the results, default call-cost-<date>, a new one")
    parser.add_argument("--folder", type=Path, help="folder of the results, default benchmarks/results")
    chosen = parser.parse_args(arguments)
    from benchmarks import suite

    before = chosen.before.resolve()
    if not (before / "mmcl_fast").is_dir():
        parser.error(f"{chosen.before} has no folder mmcl_fast: pass the root folder of a checkout")
    times = measure(before, HERE, chosen.select, chosen.pairs, chosen.rounds)
    if not times:
        parser.error(f"--select {chosen.select!r} fits no case")
    facts = suite.run_facts("cpu-1-thread", clock="processor time", pairs=chosen.pairs, rounds=chosen.rounds)
    sizes = f"B = {ROWS}, C = {CLASSES}, D = {WIDTH}, M = {MODALITIES}, r = {RANK}; float32 unless the call says else."
    results = [t._asdict() | {"case": t.case.label} for t in times]
    name = chosen.out or suite.result_name("", "call-cost")
    print(suite.write_results(name, facts, results, COLUMNS, table(times), [sizes], chosen.folder))
    return 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--worker"]:
        sys.path.pop(0)  # the folder of this script: its modules must not hide others
        work()
    else:
        sys.exit(main())
