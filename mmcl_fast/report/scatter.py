"""Where samples lie among the class texts, before and after re-alignment: in two dimensions, and in numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmcl_fast.report import figures
from mmcl_fast.report.blocks import Example, Panel, Picture, Scatter, Section, Table, Words
from mmcl_fast.runs.sample_file import FILE, Samples, Shown


def section(found: Samples | None) -> Section:
    title = "Where samples lie"
    if found is None:
        text = (
            f"{FILE} is not in the run folder, so there are no samples to show: mmcl-fast train --resume writes it, "
            "where the data and the encoder still are where they were."
        )
        return Section(title, [Words(text)])
    rows = [i for i, sample in enumerate(found.samples) if sample.drawn]
    samples = [found.samples[i] for i in rows]
    spaces = {name: e[rows].astype(np.float32) for name, e in found.embeddings.items()}
    texts = found.texts.astype(np.float32)
    places, stars, held = projected(list(spaces.values()), texts)
    groups: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(sample.modality, []).append(i)
    names = [called(label) for label in found.classes]
    everywhere = np.concatenate([*places, stars])
    low, high = everywhere.min(0), everywhere.max(0)
    edge = 0.05 * (high - low) + 1e-6
    ranges = np.stack([low - edge, high + edge]).T.round(4).tolist()
    drawn = [
        (
            name,
            figures.points(
                where.round(4).tolist(),
                [names[sample.label] for sample in samples],
                [sample.label == sample.guess for sample in samples],
                list(groups.items()),
                stars.round(4).tolist(),
                names,
                ranges,
            ),
        )
        for name, where in zip(spaces, places)
    ]
    each = [
        [
            names[sample.label],
            names[sample.guess] if sample.guess != sample.label else "right",
            sample.key,
            *(f"{x:.2f}, {y:.2f}" for x, y in (where[i] for where in places)),
        ]
        for i, sample in enumerate(samples)
    ]
    both = " of both plots" if len(drawn) > 1 else ""
    about = (
        f"{len(samples)} test samples, as many of each modality and of each of its classes as there are room and "
        "samples for: mean cosine to the text of the own class, and to the nearest other one."
    )
    hint = (
        f"The plane is that of the first two principal components (PCA) of all points{both}, samples and class texts, "
        f"which hold {100 * held[0]:.0f} % and {100 * held[1]:.0f} % of their variance. Hollow: taken for another "
        "class. Point at a sample, touch it, or go through them by the arrow keys: it is shown, and marked wherever it "
        "lies."
    )
    return Section(
        title,
        [
            Panel(
                "Embeddings in two dimensions",
                about,
                [
                    Scatter(
                        drawn,
                        [example(found, sample) for sample in samples],
                        cosines(samples, groups, spaces, texts),
                        Table(["class", "taken for", "file", *spaces], each, ["k", "k", "v", *("n" for _ in spaces)]),
                    )
                ],
                hint,
            )
        ],
    )


def projected(
    spaces: Sequence[np.ndarray], texts: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray, tuple[float, float]]:
    """Onto the first two principal components of all rows together.

    Args:
        spaces: ``[n, D]`` each; ``texts``: ``[C, D]``.

    Returns:
        ``[n, 2]`` each, ``[C, 2]``, and the shares of the variance that the two components hold.
    """
    rows = np.concatenate([*spaces, texts])
    rows = rows - rows.mean(0)
    _, sizes, directions = np.linalg.svd(rows, full_matrices=False)
    axes = directions[:2].T
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), [0, 1]])  # an SVD's signs are no part of it
    flat = rows @ axes
    *places, stars = np.split(flat, np.cumsum([len(space) for space in spaces]))
    held = sizes[:2] ** 2 / max(float((sizes**2).sum()), 1e-12)
    return places, stars, (float(held[0]), float(held[1]))


def cosines(
    samples: Sequence[Shown], groups: dict[str, list[int]], spaces: dict[str, np.ndarray], texts: np.ndarray
) -> Table:
    """By modality: right answers, and in each space the mean cosine to the own class text and the nearest other."""
    labels = np.array([sample.label for sample in samples])
    right = np.array([sample.label == sample.guess for sample in samples])
    columns = []
    for space in spaces.values():
        cosine = space @ texts.T
        own = cosine[np.arange(len(labels)), labels]
        cosine[np.arange(len(labels)), labels] = -np.inf
        columns.append((own, cosine.max(1)))
    rows = []
    for modality, some in {**groups, "all": list(range(len(samples)))}.items():
        found = [f"{values[some].mean():.2f}" for pair in columns for values in pair]
        rows.append([modality, str(len(some)), f"{100 * right[some].mean():.1f}", *found])
    head = ["modality", "samples", "right in %"]
    for name in spaces:
        head += [f"own text, {name}", f"nearest other, {name}"]
    return Table(head, rows)


def called(label: Sequence[str], modality: str | None = None) -> str:
    """A class (modality, name) in words; the modality is left out where it is ``modality``."""
    return label[1] if label[0] == modality else f"{label[1]} ({label[0]})"


def example(found: Samples, sample: Shown, named: bool = True) -> Example:
    """``named``: with its class, and modalities."""
    home = None if named else sample.modality
    label, guess = found.classes[sample.label], found.classes[sample.guess]
    taken = "right" if label == guess else f"taken for {called(guess, home)}"
    name = called(label)
    picture = None
    if sample.picture:
        kind = {"audio": "spectrogram", "depth": "depth map", "video": "frames"}.get(sample.modality, "picture")
        picture = Picture(sample.picture, f"{kind} of {name}")
    return Example(picture, sample.text, f"{name}: {taken}" if named else taken)
