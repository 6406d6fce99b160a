"""Each method from end to end on the toy stream; what defines it is tested in its own file."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tests.methods import end_to_end

PROMPTED = {"epochs": 8, "batch_size": 8, "lr": 0.02, "classifier_lr": 0.03}
QUICK = {"batch_size": 8, "epochs": 4}
SLCA = {"batch_size": 8, "sampled_features": 32, "classifier_lr": 0.01}
RANPAC = {"projections": 300, "epochs": 2, "batch_size": 8}
REPLAY = {**QUICK, "budget": 40}
ZQ = {"features": "zq"}
SCALED = {**ZQ, "token_scale_shift": True, "scale_shift_lr": 0.01, "least_steps": 0}
DNS = {"epochs": 10, "batch_size": 4, "lr": 0.01}


@dataclass(frozen=True)
class Case:
    """``above``: setting -> per cent that are exceeded. ``stopped``: options of the run that is stopped after
    ``stops`` steps, and ``loops`` the loops it has."""

    method: str
    options: dict
    above: dict[str, float]
    stopped: dict
    stops: tuple[int, ...]
    loops: set[str] = field(default_factory=lambda: {"prompts"})


ONE_EPOCH = {"epochs": 1, "batch_size": 8}
CASES = {
    "l2p": Case("l2p", PROMPTED, {"agnostic": 20}, ONE_EPOCH, (3, 4)),
    "dualprompt": Case("dualprompt", {**PROMPTED, **SCALED}, {"agnostic": 20}, {**ONE_EPOCH, **SCALED}, (3, 4)),
    "coda_prompt": Case("coda_prompt", PROMPTED, {"agnostic": 20}, {**ONE_EPOCH, "components": 3}, (3, 4)),
    "s_prompts": Case("s_prompts", {**PROMPTED, **ZQ}, {"agnostic": 40, "given": 40}, {**ONE_EPOCH, **ZQ}, (3, 4)),
    "ease": Case("ease", {**PROMPTED, **SCALED}, {"agnostic": 40}, {**ONE_EPOCH, **SCALED}, (3, 4)),
    "ewc": Case("ewc", {**QUICK, **SCALED}, {"agnostic": 20}, {**QUICK, **SCALED, "epochs": 3}, (8, 15)),
    "inflora": Case(
        "inflora",
        {**QUICK, "lr": 0.01, "classifier_lr": 0.01, "energy": 0.8},
        {"agnostic": 20},
        {**ONE_EPOCH, **ZQ, "rank": 2, "energy": 0.5},
        (3, 4),
        {"weights"},
    ),
    "lwf": Case("lwf", QUICK, {"agnostic": 20}, {**QUICK, "epochs": 3}, (8, 15)),
    "slca": Case(
        "slca",
        {**SLCA, **SCALED, "epochs": 6, "align_epochs": 5},
        {"agnostic": 40},
        {**SLCA, **SCALED, "epochs": 2, "align_epochs": 2},
        (7, 19, 31),
        {"prompts", "alignment"},
    ),
    "ranpac": Case("ranpac", RANPAC, {"agnostic": 50}, RANPAC, (1, 3)),
    "dns": Case(
        "dns", DNS, {"agnostic": 16, "given": 16}, {"epochs": 2, "batch_size": 8, "features": "z"}, (3, 6), {"layers"}
    ),
    **{
        f"replay-{kind}": Case(
            "replay",
            {**REPLAY, **more, "selection": kind},
            {"agnostic": 35},
            {**REPLAY, **more, "epochs": 3, "selection": kind},
            (8, 15),
        )
        for kind, more in (("reservoir", {}), ("herding", SCALED))
    },
}


@pytest.fixture(scope="module", params=list(CASES.values()), ids=list(CASES))
def case(request) -> Case:
    return request.param


@pytest.fixture(scope="module")
def learned(case, tmp_path_factory):
    return end_to_end.learned(tmp_path_factory.mktemp(case.method), case.method, case.options)


def test_it_learns(case, learned):
    for setting, least in case.above.items():
        end_to_end.check_learning(*learned, last=least, setting=setting)


def test_predictions_are_per_instance(learned):
    end_to_end.check_predictions_by_instance(*learned)


def test_a_run_stopped_inside_a_task_resumes_to_the_same_bits(case, tmp_path):
    assert end_to_end.check_resume(tmp_path, case.method, case.stopped, case.stops) == case.loops


def test_the_state_comes_back(learned, tmp_path):
    end_to_end.check_state(*learned, tmp_path)  # learns on: last
