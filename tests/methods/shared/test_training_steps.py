"""The loop behind everything trained: stopped after any step, it goes on to the same bits."""

import copy
import math

import pytest
import torch

from mmcl_fast.errors import RunError
from mmcl_fast.methods.shared.training_steps import optimise

STEPS = 9


class Stopped(Exception):
    pass


class Kept:
    """Checkpoints that stop the loop after one step, and give back what they kept, through JSON as on the disk."""

    def __init__(self, stop: int | None = None, state=None):
        self.stop, self.state, self.done, self.result = stop, state, 0, None

    def begin(self, loop):
        return self.state

    def step(self, loop, state):
        self.done += 1
        if self.done == self.stop:
            self.state = copy.deepcopy(state())
            raise Stopped

    def end(self, loop, result):
        self.result = copy.deepcopy(result)


def run(kind, checkpoints, factor=1.0, go_on=lambda done: True, steps=STEPS):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, 3, generator=generator).requires_grad_(True)
    if kind == "adamw":
        optimiser, schedule = torch.optim.AdamW([x], 0.1, weight_decay=0.1), None
    else:
        y = torch.zeros(3, requires_grad=True)
        optimiser = torch.optim.Adam([{"params": [x], "lr": 0.1}, {"params": [y], "lr": 0.3}])
        schedule = (
            torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
            if kind == "cosine"
            else torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: 1 / (1 + k))
        )
    advanced = []

    def loss(step):
        noise = torch.randn(4, 3, generator=generator)
        extra = 0.0 if kind == "adamw" else y.square().sum()
        return factor**step * ((x + extra - noise) ** 2).mean()

    optimise(
        "loop",
        optimiser,
        STEPS,
        loss,
        schedule=schedule,
        generator=generator,
        checkpoints=checkpoints,
        advance=advanced.append,
        remedy="do something",
        go_on=go_on,
    )
    assert sum(advanced) == steps
    return [p.detach().clone() for g in optimiser.param_groups for p in g["params"]] + [generator.get_state()]


@pytest.mark.parametrize("kind", ["adamw", "cosine", "lambda"])
def test_stopped_after_any_step_it_comes_to_the_same_bits(kind):
    uninterrupted = run(kind, Kept())
    for stop in range(1, STEPS + 1):
        checkpoints = Kept(stop)
        with pytest.raises(Stopped):
            run(kind, checkpoints)
        again = Kept(state=checkpoints.state)
        parts = run(kind, again)
        assert again.done == STEPS - stop
        assert all(torch.equal(a, b) for a, b in zip(uninterrupted, parts, strict=True))
        finished = Kept(state=again.result)
        assert (
            all(torch.equal(a, b) for a, b in zip(uninterrupted, run(kind, finished), strict=True))
            and finished.done == 0
        )


def test_a_loop_that_ends_early_stays_ended():
    asked = []

    def go_on(done):
        asked.append(done)
        return done != 5

    uninterrupted = run("cosine", Kept(), go_on=go_on, steps=5)
    assert asked == [0, 1, 2, 3, 4, 5]
    assert not torch.equal(uninterrupted[0], run("cosine", Kept())[0])
    for stop in range(1, 6):
        checkpoints = Kept(stop)
        with pytest.raises(Stopped):
            run("cosine", checkpoints, go_on=go_on)
        again = Kept(state=checkpoints.state)
        parts = run("cosine", again, go_on=go_on, steps=5)
        assert again.done == 5 - stop and all(map(torch.equal, uninterrupted, parts))
        finished = Kept(state=again.result)
        parts = run("cosine", finished, steps=5)  # nobody asks again
        assert finished.done == 0 and all(map(torch.equal, uninterrupted, parts))


def test_a_loss_that_is_not_finite_names_the_step_and_is_never_kept():
    checkpoints = Kept(stop=6)
    with pytest.raises(RunError, match=r"loop, step 5 of 9: the loss is inf; do something"):
        run("adamw", checkpoints, factor=1e11)
    assert checkpoints.state is None


def test_what_another_loop_kept_is_refused():
    checkpoints = Kept(2)
    with pytest.raises(Stopped):
        run("adamw", checkpoints)
    with pytest.raises(RunError, match="another config"):
        run("cosine", Kept(state=checkpoints.state))
    assert not math.isnan(run("adamw", Kept(state=checkpoints.state))[0].sum())
