"""The registry of methods: each method's class by name. A method is one file behind the protocol ``base.Method``."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from mmcl_fast.errors import ConfigError, suggest
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.baselines.coda_prompt import CodaPrompt
from mmcl_fast.methods.baselines.dns import Dns
from mmcl_fast.methods.baselines.dualprompt import DualPrompt
from mmcl_fast.methods.baselines.ease import Ease
from mmcl_fast.methods.baselines.ewc import Ewc
from mmcl_fast.methods.baselines.fecam import FeCam
from mmcl_fast.methods.baselines.finetune import Finetune
from mmcl_fast.methods.baselines.inflora import InfLora
from mmcl_fast.methods.baselines.joint import Joint
from mmcl_fast.methods.baselines.klda import Klda
from mmcl_fast.methods.baselines.l2p import L2p
from mmcl_fast.methods.baselines.lwf import Lwf
from mmcl_fast.methods.baselines.ncm import Ncm
from mmcl_fast.methods.baselines.rail import Rail
from mmcl_fast.methods.baselines.ranpac import RanPac
from mmcl_fast.methods.baselines.replay import Replay
from mmcl_fast.methods.baselines.ridge import RidgeMethod
from mmcl_fast.methods.baselines.s_prompts import SPrompts
from mmcl_fast.methods.baselines.slca import Slca
from mmcl_fast.methods.baselines.slda import Slda
from mmcl_fast.methods.baselines.zero_shot import ZeroShot
from mmcl_fast.methods.comm.abstract import CommAbstract
from mmcl_fast.methods.comm.method import Comm
from mmcl_fast.methods.shared.options import MethodOptions, check_options, option_model, option_values
from mmcl_fast.option_fields import use_current_names

METHODS: dict[str, type[Method]] = {
    m.name: m
    for m in (
        CodaPrompt,
        Comm,
        CommAbstract,
        Dns,
        DualPrompt,
        Ease,
        Ewc,
        FeCam,
        Finetune,
        InfLora,
        Joint,
        Klda,
        L2p,
        Lwf,
        Ncm,
        Rail,
        RanPac,
        Replay,
        RidgeMethod,
        SPrompts,
        Slca,
        Slda,
        ZeroShot,
    )
}

BUILT_IN = tuple(METHODS)  # their names; METHODS also gets custom methods

CustomMethod = TypeVar("CustomMethod", bound=type[Method])

__all__ = [
    "METHODS",
    "Classes",
    "Method",
    "MethodOptions",
    "TaskData",
    "make_options",
    "method_class",
    "option_values",
    "options",
    "register",
    "upgrade_options",
]


def register(kind: CustomMethod) -> CustomMethod:
    """Make a custom method known by its ``name``, in this process. Also usable as a decorator of the class.

    Raises:
        ConfigError: ``kind`` is no ``Method``, or its name is taken or malformed. Or its ``Options`` are neither
            ``MethodOptions`` nor a dataclass, or have a field without a default.
    """
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise ConfigError(f"{kind!r}: not a method; derive its class from mmcl_fast.methods.Method")
    name = getattr(kind, "name", "")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigError(f"{kind.__name__}.name = {name!r}: give another, of small letters, digits and _")
    if name in BUILT_IN:
        raise ConfigError(f"{kind.__name__}.name = {name!r}: a method of mmcl_fast has that name; give another")
    option_model(getattr(kind, "Options", None))
    METHODS[name] = kind
    return kind


def method_class(name: str) -> type[Method]:
    """Return the class of a method.

    Raises:
        ConfigError: no method has that name; the message names the nearest one.
    """
    if name not in METHODS:
        raise ConfigError(
            f"method.name = {name!r}: no such method; {suggest(name, METHODS, 0.6)}; for a method of yours give "
            "mmcl-fast --use FILE.py"
        )
    return METHODS[name]


def options(name: str) -> type:
    """Return the class of a method's options: a ``MethodOptions``, or a frozen dataclass of a custom method."""
    return method_class(name).Options


def upgrade_options(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Replace the former names of options in the record of a saved run, and drop removed ones, without a warning."""
    model = option_model(options(name))
    removed = getattr(model, "removed", {})
    return use_current_names(model, {key: value for key, value in values.items() if key not in removed})


def make_options(name: str, values: dict[str, Any] | None) -> Any:
    """Check options by name against the method's own, and build them.

    Args:
        name: the method's name.
        values: options by name; those left out get their defaults.

    Raises:
        ConfigError: names the option at fault, the values that it accepts, and the value that was given.
    """
    return check_options(options(name), name, values or {})
