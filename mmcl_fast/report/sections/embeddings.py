"""The section of a report about embeddings: where samples lie among the class texts, before and after re-alignment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmcl_fast.report import figures
from mmcl_fast.report.blocks import Example, Panel, Picture, ReportSection, Scatter, Table, Words
from mmcl_fast.runs.sample_file import SAMPLES_FILE, ReportSample, ReportSamples

PICTURE_KINDS = {"audio": "spectrogram", "depth": "depth map", "video": "frames"}


def embeddings_section(found: ReportSamples | None) -> ReportSection:
    """Return scatter plots of a run's samples, or how to get them if the run has none."""
    title = "Where samples lie"
    if found is None:
        text = (
            f"{SAMPLES_FILE} is not in the run folder, so there are no samples to show. mmcl-fast train --resume "
            "writes it if the data and the encoder are still in their places."
        )
        return ReportSection(title, [Words(text)])
    rows = [i for i, sample in enumerate(found.samples) if sample.drawn]
    samples = [found.samples[i] for i in rows]
    spaces = {name: e[rows].astype(np.float32) for name, e in found.embeddings.items()}
    texts = found.texts.astype(np.float32)
    points, stars, variance = project(list(spaces.values()), texts)
    groups: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(sample.modality, []).append(i)
    names = [class_label(label) for label in found.classes]
    ranges = _axis_ranges(np.concatenate([*points, stars]))
    plots = [
        (
            name,
            figures.sample_points(
                xy.round(4).tolist(),
                [names[sample.label] for sample in samples],
                [sample.label == sample.guess for sample in samples],
                list(groups.items()),
                stars.round(4).tolist(),
                names,
                ranges,
            ),
        )
        for name, xy in zip(spaces, points)
    ]
    each = [
        [
            names[sample.label],
            names[sample.guess] if sample.guess != sample.label else "right",
            sample.key,
            *(f"{x:.2f}, {y:.2f}" for x, y in (xy[i] for xy in points)),
        ]
        for i, sample in enumerate(samples)
    ]
    about = (
        f"{len(samples)} test samples, balanced over modalities and classes as far as there are samples. The table "
        "has the mean cosine to the text of the sample's own class, and to the nearest other class text."
    )
    both = " of both plots" if len(plots) > 1 else ""
    hint = (
        f"The axes are the first two principal components (PCA) of all samples and class texts{both}. They hold "
        f"{100 * variance[0]:.0f} % and {100 * variance[1]:.0f} % of the variance. A hollow point is predicted as "
        "another class. Point at a sample, touch it, or use the arrow keys: the page shows it and marks it in every "
        "plot."
    )
    scatter = Scatter(
        plots,
        [make_example(found, sample) for sample in samples],
        cosine_table(samples, groups, spaces, texts),
        Table(["class", "taken for", "file", *spaces], each, ["k", "k", "v", *("n" for _ in spaces)]),
    )
    return ReportSection(title, [Panel("Embeddings in two dimensions", about, [scatter], hint)])


def _axis_ranges(points: np.ndarray) -> list[list[float]]:
    """Return (low, high) of x and of y with a margin, for points ``[n, 2]``."""
    low, high = points.min(0), points.max(0)
    edge = 0.05 * (high - low) + 1e-6  # an axis of equal values has a width too
    return np.stack([low - edge, high + edge]).T.round(4).tolist()


def project(
    spaces: Sequence[np.ndarray], texts: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray, tuple[float, float]]:
    """Project onto the first two principal components of all rows together.

    Args:
        spaces: the samples' embeddings in each space, ``[n, D]`` each.
        texts: the class texts, ``[C, D]``.

    Returns:
        The samples in each space, ``[n, 2]`` each; the class texts, ``[C, 2]``; the share of the variance that each
        component holds.
    """
    rows = np.concatenate([*spaces, texts])
    rows = rows - rows.mean(0)
    _, sizes, directions = np.linalg.svd(rows, full_matrices=False)
    axes = directions[:2].T
    # An SVD leaves the signs open: make the largest entry of each axis positive, so that reports agree.
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), [0, 1]])
    flat = rows @ axes
    *points, stars = np.split(flat, np.cumsum([len(space) for space in spaces]))
    variance = sizes[:2] ** 2 / max(float((sizes**2).sum()), 1e-12)
    return points, stars, (float(variance[0]), float(variance[1]))


def cosine_table(
    samples: Sequence[ReportSample], groups: dict[str, list[int]], spaces: dict[str, np.ndarray], texts: np.ndarray
) -> Table:
    """Return accuracy and mean cosines to class texts: a row for each modality, and one for all.

    Columns: number of samples, % of them that the run predicted right, and two for each space. These are the mean
    cosine to the text of the own class, and to the nearest text of another class.

    Args:
        samples: the n samples.
        groups: modality -> indices of its samples.
        spaces: name -> the samples' embeddings, ``[n, D]``, unit rows.
        texts: the class texts, ``[C, D]``, unit rows.
    """
    labels = np.array([sample.label for sample in samples])
    right = np.array([sample.label == sample.guess for sample in samples])
    columns = []
    for space in spaces.values():
        cosine = space @ texts.T
        to_label = cosine[np.arange(len(labels)), labels]
        cosine[np.arange(len(labels)), labels] = -np.inf
        columns.append((to_label, cosine.max(1)))
    rows = []
    for modality, some in {**groups, "all": list(range(len(samples)))}.items():
        means = [f"{values[some].mean():.2f}" for pair in columns for values in pair]
        rows.append([modality, str(len(some)), f"{100 * right[some].mean():.1f}", *means])
    head = ["modality", "samples", "right in %"]
    for name in spaces:
        head += [f"own text, {name}", f"nearest other, {name}"]
    return Table(head, rows)


def class_label(key: Sequence[str], modality: str | None = None) -> str:
    """Return the class (modality, name) in words, such as "dog (audio)" or, if it is of ``modality``, "dog"."""
    return key[1] if key[0] == modality else f"{key[1]} ({key[0]})"


def make_example(found: ReportSamples, sample: ReportSample, with_class: bool = True) -> Example:
    """Return a sample for the report.

    Args:
        found: the samples of the run, for the names of classes.
        sample: one of them.
        with_class: begin the words with the class, and put its modality behind the name of every class. False: a table
            names the class already, so only other modalities than the sample's are named.
    """
    home = None if with_class else sample.modality
    label, guess = found.classes[sample.label], found.classes[sample.guess]
    outcome = "right" if label == guess else f"taken for {class_label(guess, home)}"
    name = class_label(label)
    picture = None
    if sample.picture:
        picture = Picture(sample.picture, f"{PICTURE_KINDS.get(sample.modality, 'picture')} of {name}")
    return Example(picture, sample.text, f"{name}: {outcome}" if with_class else outcome)
