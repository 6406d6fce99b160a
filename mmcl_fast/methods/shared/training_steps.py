"""The training loop of every trained part of a method, which can stop and continue inside a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from mmcl_fast import distributed
from mmcl_fast.errors import RunError

State = tuple[dict[str, Tensor], dict[str, Any]]  # tensors and JSON values
STEPS_BETWEEN_CHECKS = 64  # on a GPU: reading a loss waits for it


class StepCheckpoints(Protocol):
    """Keeps the state of training loops while a task is being learned. A loop has a name, unique within a task.

    Attributes:
        stop_signal: the number of the signal that asked this process to stop; 0 where none did.
    """

    stop_signal: int

    def agree_to_stop(self) -> None:
        """Called by all processes together: all stop after this step if any of them was asked to."""

    def begin(self, loop: str) -> State | None:
        """Return the kept state of a loop: of its last step, or its result. None: it starts at its first step."""

    def step(self, loop: str, state: Callable[[], State]) -> None:
        """Called after each step; calls ``state`` when it is time to keep one. May raise to stop the run."""

    def end(self, loop: str, result: State) -> None:
        """Called at the end of a loop, with the tensors and values that the rest of the task needs of it."""


class NoCheckpoints:
    """``StepCheckpoints`` that keep nothing, for learning without a run folder."""

    stop_signal = 0

    def agree_to_stop(self) -> None: ...

    def begin(self, loop: str) -> State | None:
        return None

    def step(self, loop: str, state: Callable[[], State]) -> None: ...

    def end(self, loop: str, result: State) -> None: ...


def optimise(
    name: str,
    optimiser: torch.optim.Optimizer,
    steps: int,
    loss: Callable[[int], Tensor],
    *,
    remedy: str,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    generator: torch.Generator | None = None,
    checkpoints: StepCheckpoints = NoCheckpoints(),
    advance: Callable[[int], None] = lambda n: None,
    go_on: Callable[[int], bool] = lambda done: True,
) -> None:
    """Run ``steps`` steps of an optimiser over its parameters, in place.

    A stopped loop continues to the same bits. Several processes sum their losses and gradients, and take the same
    steps.

    Args:
        name: of the loop, unique within a task.
        optimiser: holds the trained parameters.
        steps: number of steps.
        loss: step number, from 0 -> scalar, this process's part (``distributed.shard_batch``). Its random numbers come
            from ``generator``.
        remedy: what the user can do when the loss is not finite; it ends the message.
        schedule: of the learning rates.
        generator: its state is kept with the loop's.
        checkpoints: where the loop's state is kept.
        advance: called with the number of steps done since the last call.
        go_on: called before each step with the number of steps done; the loop ends where it returns False. All
            processes have to return the same, and a loop that continues from a kept state too.

    Raises:
        RunError: the loss became NaN or infinite, or a kept state belongs to another loop.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    unchecked: list[Tensor] = []
    asked: Tensor | None = None
    done = 0

    def check() -> None:
        if unchecked:
            finite = torch.stack(unchecked).isfinite()
            if not finite.all():
                step = done - len(unchecked) + int(finite.int().argmin())
                raise RunError(
                    f"{name}, step {step + 1} of {steps}: the loss is {unchecked[step - done].item()}; {remedy}"
                )
            unchecked.clear()

    def result() -> State:
        check()
        tensors = {f"parameter/{i}": p.detach() for i, p in enumerate(parameters)}
        if generator is not None:
            tensors["generator"] = generator.get_state()
        return tensors, {"done": done, "of": steps}

    def state() -> State:
        tensors, values = result()
        for i, moments in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{i}/{key}": value for key, value in moments.items()}
        values["lr"] = [group["lr"] for group in optimiser.param_groups]
        values["schedule"] = None if schedule is None else schedule.state_dict()
        return tensors, values

    saved = checkpoints.begin(name)
    ended = saved is not None and saved[1].get("ended", False)
    if saved is not None:
        done = _restore(name, saved, steps, parameters, optimiser, schedule, generator)
        advance(done)
    check_every = STEPS_BETWEEN_CHECKS if parameters[0].is_cuda else 1
    while done < steps and not ended and go_on(done):
        optimiser.zero_grad()
        value = loss(done)
        value.backward()
        if distributed.world_size() > 1:
            value, asked = distributed.all_reduce_gradients(parameters, value, checkpoints.stop_signal)
        optimiser.step()
        if schedule is not None:
            schedule.step()
        done += 1
        unchecked.append(value.detach())
        if done % check_every == 0:
            check()
            if asked is not None and asked.item():
                checkpoints.agree_to_stop()
        advance(1)
        checkpoints.step(name, state)
    distributed.broadcast_tensors(*(p.detach() for p in parameters))  # the same bits on unlike machines too
    tensors, values = result()
    checkpoints.end(name, (tensors, values | {"ended": True}))


def _restore(
    name: str,
    saved: State,
    steps: int,
    parameters: list[Tensor],
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None,
    generator: torch.Generator | None,
) -> int:
    """Take over a state that ``optimise`` kept; return the number of steps done.

    Raises:
        RunError: it belongs to another loop.
    """
    tensors, values = saved
    shapes = [
        tuple(tensors[f"parameter/{i}"].shape) if f"parameter/{i}" in tensors else None for i in range(len(parameters))
    ]
    if values["of"] != steps or shapes != [tuple(p.shape) for p in parameters]:
        raise RunError(f"{name}: its kept state is of another config; remove the run's checkpoints/inside-* folders")
    with torch.no_grad():
        for i, p in enumerate(parameters):
            p.copy_(tensors[f"parameter/{i}"])
    if generator is not None:
        generator.set_state(tensors["generator"].cpu())
    if "lr" in values:  # a state of a step, not the loop's result
        state_dict = optimiser.state_dict()
        state_dict["state"] = {
            i: {key.split("/")[2]: value for key, value in tensors.items() if key.startswith(f"optimiser/{i}/")}
            for i in range(len(parameters))
        }
        for group, lr in zip(state_dict["param_groups"], values["lr"]):
            group["lr"] = lr
        optimiser.load_state_dict(state_dict)
        if schedule is not None:
            schedule.load_state_dict(values["schedule"])
    return values["done"]
