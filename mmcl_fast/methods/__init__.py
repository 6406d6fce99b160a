"""Methods by name. A method is one file behind the protocol of ``base.Method``."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from mmcl_fast.errors import ConfigError, suggest
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.baselines.coda_prompt import CodaPrompt
from mmcl_fast.methods.baselines.dns import Dns
from mmcl_fast.methods.baselines.dualprompt import DualPrompt
from mmcl_fast.methods.baselines.ewc import Ewc
from mmcl_fast.methods.baselines.finetune import Finetune
from mmcl_fast.methods.baselines.joint import Joint
from mmcl_fast.methods.baselines.l2p import L2p
from mmcl_fast.methods.baselines.lwf import Lwf
from mmcl_fast.methods.baselines.ranpac import RanPac
from mmcl_fast.methods.baselines.replay import Replay
from mmcl_fast.methods.baselines.ridge import RidgeMethod
from mmcl_fast.methods.baselines.s_prompts import SPrompts
from mmcl_fast.methods.baselines.slca import Slca
from mmcl_fast.methods.baselines.zero_shot import ZeroShot
from mmcl_fast.methods.comm.method import Comm

METHODS: dict[str, type[Method]] = {
    m.name: m
    for m in (
        CodaPrompt,
        Comm,
        Dns,
        DualPrompt,
        Ewc,
        Finetune,
        Joint,
        L2p,
        Lwf,
        RanPac,
        Replay,
        RidgeMethod,
        SPrompts,
        Slca,
        ZeroShot,
    )
}

TINY = 1e-6
LIMITS: dict[str, tuple[float | None, float | None]] = {  # of options by name, the same in every method
    "prompt_length": (1, 512),
    "epochs": (0, None),
    "batch_size": (1, None),
    "lr": (0, 10),
    "classifier_lr": (0, 10),
    "text_lr": (0, 10),
    "rows_lr": (0, 10),
    "codes_lr": (0, 10),
    "channel_dropout": (0, 0.9),
    "head_lr": (0, 10),
    "self_regularisation": (0, None),
    "lambda_max": (0, 1),
    "sigma": (TINY, None),
    "tau": (TINY, None),
    "least_share": (0, 1),
    "relevance_penalty": (TINY, None),
    "rank": (1, None),
    "penalty": (TINY, None),
    "steps": (0, None),
    "draws": (1, None),
    "realignment_lr": (0, 10),
    "realignment_decay": (0, None),
    "realignment_scale": (TINY, None),
    "drift_width": (TINY, None),
    "class_rank": (1, None),
    "modality_rank": (1, None),
    "shrink": (0, 1),
    "scale": (TINY, None),
    "strength": (0, None),
    "distillation": (0, None),
    "temperature": (TINY, None),
    "pool_size": (1, None),
    "selected": (1, None),
    "pull": (0, None),
    "match": (0, None),
    "components": (1, None),
    "orthogonality": (0, None),
    "centroids": (1, None),
    "budget": (1, None),
    "align_epochs": (0, None),
    "align_lr": (0, 10),
    "projections": (1, 20_000),
    "lambda_min": (0, None),
}

__all__ = ["METHODS", "Classes", "Method", "TaskData", "make_options", "method_class", "options", "register"]
BUILT_IN = tuple(METHODS)

Own = TypeVar("Own", bound=type[Method])


def register(kind: Own) -> Own:
    """Make a method of one's own known by its ``name``, for this process; also a decorator of the class.

    Raises:
        ConfigError: it is no ``Method``, its name can't be one or is taken, or ``Options`` is no dataclass of defaults.
    """
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise ConfigError(f"{kind!r}: not a method; derive its class from mmcl_fast.methods.Method")
    name = getattr(kind, "name", "")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in BUILT_IN:
        raise ConfigError(f"{kind.__name__}.name = {name!r}: give another, of small letters, digits and _")
    fields = getattr(getattr(kind, "Options", None), "__dataclass_fields__", None)
    if fields is None or any(f.default is dataclasses.MISSING for f in fields.values()):
        raise ConfigError(f"{kind.__name__}.Options: give a frozen dataclass whose fields all have defaults")
    METHODS[name] = kind
    return kind


def method_class(name: str) -> type[Method]:
    """The class of a method; ConfigError with the nearest name for an unknown one."""
    if name not in METHODS:
        raise ConfigError(
            f"method.name = {name!r}: no such method; {suggest(name, METHODS, 0.6)}; for one of your own give "
            "mmcl-fast --use FILE.py"
        )
    return METHODS[name]


def options(name: str) -> type:
    """The frozen dataclass of a method's options."""
    return method_class(name).Options


def make_options(name: str, values: dict[str, Any] | None) -> Any:
    """Check a table of options against the method's own and build them; ConfigError names the key."""
    kind = options(name)
    hints = get_type_hints(kind)
    checked = {}
    for key, value in (values or {}).items():
        if key not in hints:
            raise ConfigError(f"method.options.{key}: {name} has no such option; {suggest(key, hints, 0.6)}")
        hint = hints[key]
        if get_origin(hint) is not None:
            if value not in get_args(hint):
                raise ConfigError(f"method.options.{key} = {value!r}: use one of {', '.join(map(str, get_args(hint)))}")
        elif hint is float and type(value) is int:
            value = float(value)
        elif type(value) is not hint:
            raise ConfigError(f"method.options.{key} = {value!r}: must be of type {hint.__name__}")
        low, high = LIMITS.get(key, (None, None))
        if type(value) in (int, float) and not (
            math.isfinite(value) and (low is None or low <= value) and (high is None or value <= high)
        ):
            wanted = f"from {low}" + (f" to {high}" if high is not None else "") if low is not None else "finite"
            raise ConfigError(f"method.options.{key} = {value!r}: must be {wanted}")
        checked[key] = value
    return dataclasses.replace(kind(), **checked)
