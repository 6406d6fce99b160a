"""The trials of a search for a row's options: its defaults first, then points spread evenly over the search space."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from mmcl_fast.compare.variants import MethodVariant
from mmcl_fast.config import Config
from mmcl_fast.errors import ConfigError
from mmcl_fast.methods import options as options_of
from mmcl_fast.methods.shared.options import option_model
from mmcl_fast.option_fields import SearchSpace, Tunable, search_space, use_current_names

POINTS_PER_TRIAL = 50  # points of the space that are looked at for one new trial


@dataclass(frozen=True)
class Search:
    """A row whose options are searched.

    Attributes:
        row: the row as the user gave it.
        space: the options that are searched; options that the row gives itself are not.
        start: all options of the row's method, before any search.
        options: the searched options of each trial. The first trial has the row's own.
    """

    row: MethodVariant
    space: SearchSpace
    start: dict[str, Any]
    options: list[dict[str, Any]]

    def with_effect(self, options: dict[str, Any]) -> list[str]:
        """Return the searched options that change anything in a trial with these options."""
        return [name for name, found in self.space.items() if found.has_effect(self.start | options)]

    @property
    def trials(self) -> list[MethodVariant]:
        """A variant for each trial, in the folders ``<row>/trial-000`` and on."""
        return [
            replace(
                self.row,
                name=f"{self.row.name}, trial {number}",
                folder=f"{self.row.folder}/trial-{number:03}",
                options=self.row.options | options,
            )
            for number, options in enumerate(self.options)
        ]


def plan_search(row: MethodVariant, base: Config, trials: int, seed: int) -> Search:
    """Choose the trials of a row.

    Trials differ in options that have an effect. Options that the method refuses together are passed over. So a small
    space gives fewer trials, and an empty one gives a single trial. More trials with the same seed begin with the same
    ones.

    Args:
        row: its own options stay as they are.
        base: the config of all rows.
        trials: number of trials, the one with the row's own options included.
        seed: seed of the points, together with the row's name.

    Raises:
        ConfigError: an option of the row or of its search space is wrong.
    """
    model = option_model(options_of(row.method))
    fixed = use_current_names(model, row.options)
    space = {name: found for name, found in search_space(model).items() if name not in fixed}
    start = row.make_config(base, seed).method.options
    # A number without effect whatever is drawn, because the option that it needs is fixed.
    idle = [
        name
        for name, found in space.items()
        if isinstance(found, Tunable) and found.needs and found.needs[0] not in space and not found.has_effect(start)
    ]
    search = Search(row, {name: found for name, found in space.items() if name not in idle}, start, [])
    search.options.append({name: start[name] for name in search.space})
    known = {json.dumps(search.options[0])}
    for point in _points(len(search.space), row.name, seed, POINTS_PER_TRIAL * (trials - 1)):
        if len(search.options) == trials:
            break
        drawn = {name: found.value(position) for (name, found), position in zip(search.space.items(), point)}
        used = search.with_effect(drawn)
        drawn = {name: value if name in used else start[name] for name, value in drawn.items()}
        if json.dumps(drawn) not in known and _accepts(row, base, drawn):
            known.add(json.dumps(drawn))
            search.options.append(drawn)
    return search


def _points(dimensions: int, name: str, seed: int, count: int) -> Iterator[list[float]]:
    """Yield points of a scrambled Halton sequence in the unit cube, which cover it evenly at any number of points."""
    if not dimensions:
        return
    import numpy as np
    from scipy.stats import qmc

    entropy = int.from_bytes(hashlib.sha256(f"{name}/{seed}".encode()).digest()[:8], "big")
    sequence = qmc.Halton(dimensions, scramble=True, rng=np.random.default_rng(entropy))
    for _ in range(count):
        yield sequence.random(1)[0].tolist()


def _accepts(row: MethodVariant, base: Config, options: dict[str, Any]) -> bool:
    """Return whether the method of a row accepts these options together."""
    try:
        replace(row, options=row.options | options).make_config(base, 0)
    except ConfigError:
        return False
    return True
