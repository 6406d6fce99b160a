"""A config written out: every key with what it is for, what is expected, its limits and its default."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

from mmcl_fast.config.load import Config
from mmcl_fast.config.schema import MethodSection, Section
from mmcl_fast.methods import LIMITS, options

OPTIONS = {  # what a method's option is for; one name means the same in every method
    "prompts": "Learn prompts; without, the bare head",
    "prompt_length": "Tokens of a prompt",
    "epochs": "Passes over a task's samples",
    "batch_size": "Samples of a step",
    "token_rows": "Prompts have rows that scale and shift the trunk's tokens, too",
    "text_rows": "Those of texts have rows, too",
    "rows_lr": "Step size of those rows",
    "text_lr": "Step size of the text tower's prompts",
    "channel_dropout": "Share of the tokens' channels that a sample goes without while a prompt is learned",
    "codes": "What prompts are learned towards: the task's class texts, or codes that start there and are learned",
    "codes_lr": "Step size of those codes",
    "lr": "Step size of the prompts",
    "head": "Train the whole head, not the prompts alone",
    "head_lr": "Step size of the head",
    "classifier_lr": "Step size of the classifier",
    "self_regularisation": "Weight of keeping the last prompt's embeddings (beta)",
    "aggregation": "Average a modality's prompt with its last one",
    "lambda_max": "Most weight of a new prompt in that average",
    "sigma": "Shift of the features at which that weight is halved",
    "blending": "Mix the prompts of all modalities by relevance; without, the most relevant one alone",
    "relevance": "What tells the modalities apart",
    "tau": "Temperature",
    "least_share": "Smaller shares of prompts are left out",
    "relevance_penalty": "Ridge penalty of the relevance function",
    "realignment": "How embeddings are aligned anew with all class texts after each task",
    "start": "What trained re-alignment begins with",
    "rank": "Rank of re-alignment for each modality",
    "reads_query": "Re-alignment reads the pooled trunk features too",
    "dual_targets": "Ridge onto the dual basis of the class texts; without, onto the texts",
    "penalty": "Ridge penalty",
    "steps": "Steps of re-alignment after each task",
    "draws": "Features drawn from the statistics (comm: a step; slca: a class and epoch)",
    "realignment_lr": "Step size of re-alignment",
    "compiled": "Re-alignment's step through torch.compile",
    "realignment_decay": "Weight decay of re-alignment",
    "realignment_scale": "Scale of the cosines in re-alignment's loss",
    "weighted": "Weight re-alignment's loss by contribution",
    "drift": "Move old classes' means as the prompt moves",
    "drift_width": "Width of the kernel that says which means move alike",
    "class_rank": "Rank of the covariance kept for each class",
    "modality_rank": "Rank of the covariance kept for each modality",
    "shrink": "Share of the modality's covariance in a class's",
    "source": "The features: q of the trunk, z of the bare head, zq both, tuned z under the first task's prompt",
    "lambda_min": "Eigenvalues above it are kept",
    "match": "Weight of matching keys with queries",
    "strength": "Weight of the Fisher penalty",
    "scale": "Factor from scores to logits",
    "pool_size": "Prompts in the pool",
    "selected": "Prompts chosen for a sample",
    "pull": "Weight of pulling keys to queries",
    "components": "Components for each task",
    "orthogonality": "Weight of keeping components orthogonal",
    "distillation": "Weight of the old outputs",
    "temperature": "Temperature of the old outputs",
    "projections": "Random features",
    "held_out": "Whose samples the penalty is chosen on",
    "budget": "Exemplars of all classes together",
    "selection": "How exemplars are chosen",
    "centroids": "Centroids of each task",
    "align_epochs": "Epochs of aligning the classifier",
    "align_lr": "Step size of aligning the classifier",
}


def text(config: Config, name: str) -> str:
    """TOML that ``load`` reads back as the same config, wherever it is put."""
    lines = [
        f"# {name} with every key written out: mmcl-fast train FILE.toml --out runs/NAME",
        '# "none" leaves a key empty. mmcl-fast train ... --set SECTION.KEY=VALUE goes before what is here.',
    ]
    return "\n".join([*lines, *_section(config, "", set())]) + "\n"


def _section(section: Section, path: str, seen: set[type]) -> Iterator[str]:
    """A table; what is the same kind of table as one before is written without comments."""
    known = type(section) in seen
    seen.add(type(section))
    keys = {
        name: field
        for name, field in type(section).model_fields.items()
        if not isinstance(getattr(section, name), Section) and f"{path}.{name}" != "method.options"
    }
    if path:
        yield ""
        if not known:
            about = inspect.cleandoc(type(section).__doc__ or "").partition("]: ")[2].replace("``", "")
            yield from _comment(about[:1].upper() + about[1:])
        if keys:
            yield f"[{path}]"
    for name, field in keys.items():
        if not known:
            yield from _key(field.title or "", field.description or "", field.get_default(call_default_factory=True))
        yield f"{name} = {_toml(getattr(section, name))}"
    for name in type(section).model_fields:
        below = f"{path}.{name}".lstrip(".")
        if isinstance(getattr(section, name), Section):
            yield from _section(getattr(section, name), below, seen)
        elif isinstance(section, MethodSection) and name == "options":
            yield from _options(section.name, section.options)


def _options(method: str, values: dict[str, Any]) -> Iterator[str]:
    defaults, hints = options(method)(), get_type_hints(options(method))
    if values:
        yield from ("", f"# Options of {method}.", "[method.options]")
    for name, value in values.items():
        yield from _key(
            OPTIONS.get(name, f"An option of {method}"), _expected(name, hints[name]), getattr(defaults, name)
        )
        yield f"{name} = {_toml(value)}"


def _expected(name: str, hint: Any) -> str:
    if get_args(hint):
        return " or ".join(_toml(value) for value in get_args(hint))
    if hint is bool:
        return "true or false"
    low, high = LIMITS.get(name, (None, None))
    limits = "" if low is None else f" from {low}" + ("" if high is None else f" to {high}")
    return ("a whole number" if hint is int else "a number") + limits


def _key(purpose: str, expected: str, default: Any) -> list[str]:
    return _comment(f"{purpose} ({expected}; default {_toml(default)})")


def _comment(words: str) -> list[str]:
    return textwrap.wrap(
        " ".join(words.split()),
        118,
        initial_indent="# ",
        subsequent_indent="#   ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _toml(value: Any) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
