"""The closed form of re-alignment: linear discriminant analysis, written as a re-alignment of embeddings.

All modalities share one covariance within the classes, and features are centred in their modality m. The discriminant
of class c, with mean mu_c, count n_c and covariance Sigma_c, is

    s_c(u) = (u - centre_m)' S^-1 (mu_c - centre_m) - 1/2 (|mu_c - centre_m|^2_{S^-1} - tr(S^-1 Sigma_c) / n_c)

with S of ``Moments.inverse``, on the coordinates that the modality's features have. The square of an estimated mean is
too large by the last term, so it is taken away. Discriminants are scaled so that a class's own mean has on average 1
more than the mean of its modality, and 1 / K_m is added. So they resemble scores of regression on one-hots. A class of
another modality has the score ``OTHERS``.

Scores become embeddings by the dual basis Y of the class texts: Y T' = I, so e = s Y has the cosines s / |s Y|.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mmcl_fast.methods.comm.memory import FeatureMemory
from mmcl_fast.methods.comm.moments import Inverse, Moments
from mmcl_fast.methods.shared.gram import gram_matrix

# eps of the dual basis. Texts that differ in one word differ by little: T'T has eigenvalues down to 3e-5 on the stream
# place. Scores in directions with eigenvalues below eps are lost, so eps has to be far below them.
DUAL_PENALTY = 1e-6
OTHERS = -0.5  # score of another modality's classes
OTHERS_WEIGHT = 0.1  # weight of those scores, where there are more classes than coordinates
LOST_VARIANCE = 1e-6  # largest share of the map's variance that the cut of its rank may lose


def dual_basis(texts: Tensor, weight: Tensor) -> Tensor:
    """Return Y ``[C, D]`` float64, for which scores s are best approached by (s Y) T'.

    Y = W T (T' W T + eps I)^-1 with W the weights of the classes. With up to D classes Y T' = I but for eps. With more
    it is the weighted least squares solution.

    Args:
        texts: T ``[C, D]`` float64.
        weight: ``[C]``, of the classes' scores.
    """
    weighted = texts * weight.unsqueeze(1)
    system = texts.T @ weighted
    system.diagonal().add_(DUAL_PENALTY)
    return torch.linalg.solve(system, weighted.T).T


def closed_form(
    memory: FeatureMemory,
    texts: Tensor,
    modalities: list[str],
    *,
    rank: int,
    penalty: float | Literal["auto"],
    width: int,
    dual: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return the re-alignment whose cosines order the classes as the discriminants do.

    Args:
        memory: the feature memory.
        texts: T ``[C, D]``.
        modalities: M names.
        rank: largest rank; the map's spectrum may give a smaller one.
        penalty: relative to the mean variance within a class; ``"auto"``: GCV chooses it.
        width: the number of leading coordinates of u that are read; the first D are z.
        dual: write scores by the dual basis; False: by the class texts themselves.

    Returns:
        down ``[M, width + 1, r]`` and up ``[M, r, D]`` in the dtype of ``texts``. The last row of down
        belongs to a constant 1.
    """
    moments = Moments(memory, modalities, width)
    chosen = moments.best_penalty() if penalty == "auto" else penalty
    maps = discriminants(memory, moments, modalities, chosen, texts.double(), dual)
    cut = [_cut_rank(full, moments, number, rank) for number, full in enumerate(maps)]
    most = max(down.shape[1] for down, _ in cut)
    down = texts.new_zeros(len(cut), width + 1, most)
    up = texts.new_zeros(len(cut), most, texts.shape[1])
    rows = torch.cat([moments.live, moments.live.new_tensor([width])])
    for number, (a, b) in enumerate(cut):
        down[number, rows, : a.shape[1]] = a.to(texts.dtype)
        up[number, : len(b)] = b.to(texts.dtype)
    return down, up


def discriminants(
    memory: FeatureMemory, moments: Moments, modalities: list[str], penalty: float, texts: Tensor, dual: bool
) -> list[Tensor]:
    """Return for each modality the map ``[p + 1, D]`` from [u ; 1] to e - z, float64.

    Args:
        memory: the feature memory.
        moments: of all modalities.
        modalities: M names.
        penalty: relative to the mean variance within a class.
        texts: T ``[C, D]`` float64.
        dual: as in :func:`closed_form`.
    """
    share, lift = 1 - moments.classes / moments.count, penalty * moments.scale
    inverses: dict[tuple[int, ...], Inverse] = {}  # modalities with the same coordinates share one
    weights, squares, traces = [], [], []
    for own, deviation in zip(moments.own, moments.deviations):
        key = tuple(own.tolist())
        if key not in inverses:
            inverses[key] = moments.inverse(penalty, own)
        inverse = inverses[key]
        weight = torch.zeros_like(deviation)  # [K_m, p]
        weight[:, own] = inverse(deviation[:, own])
        weights.append(weight)
        squares.append((weight * deviation).sum(1))
        # tr(S^-1 W), from tr(S^-1 S) = p
        traces.append((len(own) - lift * inverse.trace()) / share if share else 0.0)
    margin = torch.cat(squares).mean().clamp(min=1e-30)
    is_z = (moments.live < texts.shape[1]).nonzero().flatten()
    maps = []
    for number, modality in enumerate(modalities):
        weight, n = weights[number], moments.counts[number]
        pooled = memory.pooled[modality]
        size = (pooled.factor.square().sum() + pooled.diagonal.sum()).double() * pooled.count
        size = size / max(1, pooled.count - len(n)) / max(moments.within_trace, 1e-30)
        spread = memory.sizes(modality).double() * size  # Sigma_c as a multiple of W
        bias = -0.5 * (squares[number] - traces[number] * spread / n) - weight @ moments.centre[number]
        own = torch.tensor(memory.labels(modality), device=texts.device)
        of_class = torch.full((len(texts),), OTHERS_WEIGHT, dtype=texts.dtype, device=texts.device)
        of_class[own] = 1
        basis = dual_basis(texts, of_class)
        codes = basis if dual else texts
        constant = torch.full((len(texts),), OTHERS, dtype=texts.dtype, device=texts.device)
        constant[own] = bias / margin + 1 / len(own)
        full = torch.cat([weight.T / margin @ codes[own], (constant @ codes).unsqueeze(0)])
        full[is_z] -= (texts.T @ basis)[moments.live[is_z]]  # takes away the scores that z itself has
        maps.append(full)
    return maps


def _cut_rank(full: Tensor, moments: Moments, number: int, rank: int) -> tuple[Tensor, Tensor]:
    """Factor a map into down ``[p + 1, r]`` and up ``[r, D]`` with the least mean square of what is lost.

    v = [u ; 1] has the mean of the modality with this number, and the covariance of all modalities.

    r is the least rank that loses no more than ``LOST_VARIANCE``, and at most ``rank``.
    """
    linear = full[:-1]
    mean = moments.centre[number] @ linear + full[-1]
    parts = [(moments.within_diagonal.sqrt().unsqueeze(1) * linear), mean.unsqueeze(0)]
    parts += [moments.within_rows @ linear, moments.between_rows @ linear]
    values, right = torch.linalg.eigh(sum(gram_matrix(part) for part in parts))
    values, right = values.flip(0).clamp(min=0), right.flip(1)
    lost = values.sum() - values.cumsum(0)
    kept = min(rank, int((lost > LOST_VARIANCE * values.sum()).sum()) + 1, len(values))
    right = right[:, :kept]
    down = full @ right
    scale = down.norm(dim=0).clamp(min=1e-12).sqrt()
    return down / scale, (right * scale).T
