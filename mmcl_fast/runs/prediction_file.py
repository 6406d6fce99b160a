"""The file of a run that says what was predicted for each test sample at the end: predictions.json.gz.

Intervals over test samples are computed from it, and anybody can count its right answers. It needs no torch.
"""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from mmcl_fast import atomic_files
from mmcl_fast.errors import RunError
from mmcl_fast.learning.predictions import Predictions

PREDICTIONS_FILE = "predictions.json.gz"


def write_predictions(file: Path, predictions: Predictions) -> None:
    """Write predictions. The same ones give the same bytes.

    Raises:
        RunError: the file cannot be written.
    """
    values = {
        "classes": predictions.classes,
        "keys": predictions.keys,
        "groups": predictions.groups,
        "tasks": predictions.tasks.tolist(),
        "labels": predictions.labels.tolist(),
        "predicted": {setting: ids.tolist() for setting, ids in predictions.predicted.items()},
        "confidence": {setting: shares.tolist() for setting, shares in predictions.confidence.items()},
    }
    if predictions.unknown is not None:
        values["unknown"] = [None if math.isnan(score) else score for score in predictions.unknown.tolist()]
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
    atomic_files.replace_file(file, gzip.compress(text, mtime=0))


def read_predictions(run: Path, name: str = PREDICTIONS_FILE) -> Predictions | None:
    """Read the predictions of a run folder; return None where it has none, as of an older version.

    Raises:
        RunError: the file is damaged.
    """
    file = run / name
    if not file.is_file():
        return None
    try:
        found = parse_predictions(json.loads(gzip.decompress(file.read_bytes())))
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
        raise RunError(
            f"{file}: not readable ({fault}); remove it, and mmcl-fast train --resume writes it again"
        ) from None
    return found


def parse_predictions(values: dict[str, Any]) -> Predictions:
    """Return the predictions that the values of the file say.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the values are of another form.
    """
    found = Predictions(
        [(modality, name) for modality, name in values["classes"]],
        [str(key) for key in values["keys"]],
        [str(group) for group in values["groups"]],
        np.asarray(values["tasks"], np.int64),
        np.asarray(values["labels"], np.int64),
        {name: np.asarray(ids, np.int64) for name, ids in values["predicted"].items()},
        {name: np.asarray(shares, np.float64) for name, shares in values.get("confidence", {}).items()},
        np.asarray(values["unknown"], np.float64) if "unknown" in values else None,
    )
    count = len(found.keys)
    columns = [found.labels, *found.predicted.values()]
    sized = [found.tasks, *columns, *found.confidence.values()]
    sized += [] if found.unknown is None else [found.unknown]
    if not count or len(found.groups) != count or any(c.shape != (count,) for c in sized):
        raise ValueError("its columns are of unlike lengths")
    if found.tasks.min() < 1 or any(c.min() < 0 or c.max() >= len(found.classes) for c in columns):
        raise ValueError("it names a task or a class that is not there")
    return found
