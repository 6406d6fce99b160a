"""Put the sampling of test samples into a sweep's intervals, where its runs kept what they predicted."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mmcl_fast.learning.predictions import Predictions
from mmcl_fast.learning.sample_bootstrap import SeedSamples, sample_intervals

ALL = ""  # stands for all modalities


@dataclass(frozen=True)
class _Tested:
    """The test samples of a cell in the order of their keys.

    Attributes:
        keys, modalities: n strings each.
        samples: their groups and their tasks.
        correct: setting -> ``[n]`` float64, 100 for a right answer, else 0.
    """

    keys: list[str]
    modalities: np.ndarray
    samples: SeedSamples
    correct: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Wanted:
    """An interval to compute: of a row, or of its difference to the reference where ``minus`` is given."""

    row: int
    setting: str
    minus: int | None = None


def _arrange(found: Predictions, tasks: Sequence[Mapping[str, Any]]) -> _Tested:
    order = sorted(range(len(found.keys)), key=found.keys.__getitem__)
    numbers = found.tasks[order]
    modalities = [tasks[number - 1]["modality"] for number in numbers.tolist()]
    keys = [found.keys[i] for i in order]
    # A file of one modality is no part of a recording of another, even where both have one name.
    groups = [
        f"{modality} group {found.groups[i]}" if found.groups[i] else f"{modality} sample {found.keys[i]}"
        for i, modality in zip(order, modalities)
    ]
    correct = {name: 100.0 * found.correct(name)[order] for name in found.predicted}
    return _Tested(keys, np.array(modalities), SeedSamples(groups, numbers), correct)


def add_sample_intervals(
    rows: Sequence[dict[str, Any]], predictions: Sequence[Mapping[int, Predictions]], reference: int | None
) -> list[str]:
    """Replace the statistics of ``last`` and ``pooled`` by intervals over seeds and test samples.

    A row keeps its intervals over seeds alone where one of its runs has no predictions. It also does where a run was
    tested on other samples than the reference's run of that seed. Where a row learned other tasks than the reference,
    its ``last`` becomes the mean over the reference's tasks: so the two are paired by sample.

    Args:
        rows: the rows of ``results.collect`` with their statistics over seeds.
        predictions: for each row: seed -> what the run predicted. A run without them is missing.
        reference: the position of the reference row; None: there is none.

    Returns:
        A line for each row whose ``last`` is over other tasks than its own.
    """
    tested: list[dict[int, _Tested]] = [
        {
            cell["seed"]: _arrange(found[cell["seed"]], cell["tasks"])
            for cell in row["cells"]
            if cell["seed"] in found and max(found[cell["seed"]].tasks) <= len(cell["tasks"])
        }
        for row, found in zip(rows, predictions)
    ]
    designs: dict[int, _Tested] = {}
    for position in ([] if reference is None else [reference]) + list(range(len(rows))):
        for seed, found in tested[position].items():
            designs.setdefault(seed, found)
    lines, complete = [], set()
    for position, row in enumerate(rows):
        seeds = [cell["seed"] for cell in row["cells"]]
        if seeds and all(_fits(tested[position].get(s), designs.get(s), row["statistics"]) for s in seeds):
            complete.add(position)
            if any(not _same_tasks(tested[position][s].samples, designs[s].samples) for s in seeds):
                lines.append(
                    f"{row['title']}: learned other tasks than {rows[reference or 0]['title']}; its last is the mean "
                    f"over the tasks of {rows[reference or 0]['title']}."
                )
    for common, wanted in _by_seeds(rows, complete, reference).items():
        for metric, modality, intervals in _compute(common, wanted, tested, designs):
            for one, interval in zip(wanted, intervals):
                _store(rows[one.row]["statistics"][one.setting], one, metric, modality, asdict(interval))
    return lines


def _fits(found: _Tested | None, design: _Tested | None, settings: Collection[str]) -> bool:
    """Return whether a cell was tested on the design's samples, in all settings."""
    return (
        found is not None and design is not None and found.keys == design.keys and set(settings) <= set(found.correct)
    )


def _same_tasks(a: SeedSamples, b: SeedSamples) -> bool:
    """Return whether two numberings divide the samples alike."""
    pairs = len(np.unique(np.stack([a.tasks, b.tasks]), axis=1).T)
    return pairs == len(np.unique(a.tasks)) == len(np.unique(b.tasks))


def _by_seeds(
    rows: Sequence[dict[str, Any]], complete: set[int], reference: int | None
) -> dict[tuple[int, ...], list[_Wanted]]:
    """Return the intervals to compute, by the seeds that they are over: one pass serves all of the same seeds."""
    out: dict[tuple[int, ...], list[_Wanted]] = {}
    seeds_of = {i: tuple(cell["seed"] for cell in rows[i]["cells"]) for i in complete}
    seeds_of_reference = () if reference is None else seeds_of.get(reference, ())
    for position in sorted(complete):
        common = tuple(s for s in seeds_of[position] if s in seeds_of_reference)
        paired = rows[reference]["statistics"] if common and reference is not None and reference != position else {}
        for setting in rows[position]["statistics"]:
            out.setdefault(seeds_of[position], []).append(_Wanted(position, setting))
            if setting in paired:
                out.setdefault(common, []).append(_Wanted(position, setting, reference))
    return out


def _compute(
    seeds: Sequence[int],
    wanted: Sequence[_Wanted],
    tested: Sequence[Mapping[int, _Tested]],
    designs: Mapping[int, _Tested],
) -> Iterator[tuple[str, str, list[Any]]]:
    """Yield metric, modality (``ALL`` or one) and the intervals of ``wanted``."""

    def answers(one: _Wanted, seed: int) -> np.ndarray:
        own = tested[one.row][seed].correct[one.setting]
        return own if one.minus is None else own - tested[one.minus][seed].correct[one.setting]

    values = [np.stack([answers(one, seed) for one in wanted]) for seed in seeds]
    samples = [designs[seed].samples for seed in seeds]
    yield "last", ALL, list(sample_intervals(samples, values))
    whole = [SeedSamples(s.groups, np.zeros(len(s.groups), np.int64)) for s in samples]
    yield "pooled", ALL, list(sample_intervals(whole, values))
    for modality in dict.fromkeys(designs[seeds[0]].modalities.tolist()):
        chosen = [np.flatnonzero(designs[seed].modalities == modality) for seed in seeds]
        parts = [SeedSamples([s.groups[i] for i in c.tolist()], s.tasks[c]) for s, c in zip(samples, chosen)]
        yield "last", modality, list(sample_intervals(parts, [v[:, c] for v, c in zip(values, chosen)]))


def _store(statistics: dict[str, Any], one: _Wanted, metric: str, modality: str, found: dict[str, Any]) -> None:
    p, seeds = found.pop("p"), found["n"]
    found |= {"over": "seeds and test samples" if seeds > 1 else "test samples"}
    if modality != ALL:
        if one.minus is None:
            statistics["per_modality"].setdefault(modality, {})[metric] = found
        return
    if one.minus is None:
        statistics[metric] = found | {
            key: value for key, value in (statistics.get(metric) or {}).items() if key == "difference"
        }
    elif statistics.get(metric) is not None:
        before = statistics[metric].get("difference") or {"t_p": None, "permutation_p": None}
        statistics[metric]["difference"] = before | {"difference": found, "p": p}
