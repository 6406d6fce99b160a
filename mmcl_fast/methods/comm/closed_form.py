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

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmcl_fast.methods.comm.memory import FeatureMemory
from mmcl_fast.methods.comm.moments import Inverse, Moments
from mmcl_fast.methods.shared.gram import gram_matrix

# eps of the dual basis. Texts that differ in one word differ by little: T'T has eigenvalues down to 3e-5 on the stream
# place. Scores in directions with eigenvalues below eps are lost, so eps has to be far below them.
DUAL_PENALTY = 1e-6
DEFAULT_SHARE = 0.5  # of GCV's penalty, where no held-out sample has chosen one
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
    share: float = DEFAULT_SHARE,
) -> tuple[Tensor, Tensor]:
    """Return the re-alignment whose cosines order the classes as the discriminants do.

    Args:
        memory: the feature memory.
        texts: T ``[C, D]``.
        modalities: M names.
        rank: largest rank; the map's spectrum may give a smaller one.
        penalty: relative to the mean variance within a class; ``"auto"``: a share of GCV's.
        width: the number of leading coordinates of u that are read; the first D are z.
        dual: write scores by the dual basis; False: by the class texts themselves.
        share: of GCV's penalty, see :mod:`mmcl_fast.methods.comm.penalty_share`.

    Returns:
        down ``[M, width + 1, r]`` and up ``[M, r, D]`` in the dtype of ``texts``. The last row of down
        belongs to a constant 1.
    """
    moments = Moments(memory, modalities, width)
    chosen = share * moments.gcv_penalty() if penalty == "auto" else penalty
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


@dataclass(frozen=True)
class Discriminants:
    """The linear discriminants of a modality's K_m classes, and what their scale follows from.

    Attributes:
        weight: ``[K_m, p]``, S^-1 times the classes' deviations.
        bias: ``[K_m]``.
        square: ``[K_m]``, the squared length of the deviations in S^-1.
    """

    weight: Tensor
    bias: Tensor
    square: Tensor


def linear_discriminants(
    memory: FeatureMemory, moments: Moments, number: int, modality: str, penalty: float, inverse: Inverse
) -> Discriminants:
    """Return the discriminants of a modality, in the dtype of the inverse.

    Args:
        memory: the feature memory.
        moments: of all modalities.
        number: of the modality.
        modality: its name.
        penalty: relative to the mean variance within a class.
        inverse: of S on the modality's coordinates.
    """
    share, lift = 1 - moments.classes / moments.count, penalty * moments.scale
    own, n = moments.own[number], moments.counts[number]
    deviation = moments.deviations[number].to(inverse.diagonal.dtype)
    weight = torch.zeros_like(deviation)
    weight[:, own] = inverse(deviation[:, own])
    square = (weight * deviation).sum(1)
    # tr(S^-1 W), from tr(S^-1 S) = p
    trace = (len(own) - lift * inverse.trace()) / share if share else 0.0
    pooled = memory.pooled[modality]
    size = (pooled.factor.square().sum() + pooled.diagonal.sum()).double() * pooled.count
    size = size / max(1, pooled.count - len(n)) / max(moments.within_trace, 1e-30)
    spread = memory.sizes(modality).double() * size  # Sigma_c as a multiple of W
    bias = -0.5 * (square - trace * spread / n) - weight @ moments.centre[number].to(weight.dtype)
    return Discriminants(weight, bias.to(weight.dtype), square)


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
    inverses: dict[tuple[int, ...], Inverse] = {}  # modalities with the same coordinates share one
    found = []
    for number, (modality, own) in enumerate(zip(modalities, moments.own)):
        key = tuple(own.tolist())
        if key not in inverses:
            inverses[key] = moments.inverse(penalty, own)
        found.append(linear_discriminants(memory, moments, number, modality, penalty, inverses[key]))
    margin = torch.cat([each.square for each in found]).mean().clamp(min=1e-30)
    is_z = (moments.live < texts.shape[1]).nonzero().flatten()
    maps = []
    for each, modality in zip(found, modalities):
        own = torch.tensor(memory.labels(modality), device=texts.device)
        of_class = torch.full((len(texts),), OTHERS_WEIGHT, dtype=texts.dtype, device=texts.device)
        of_class[own] = 1
        basis = dual_basis(texts, of_class)
        codes = basis if dual else texts
        constant = torch.full((len(texts),), OTHERS, dtype=texts.dtype, device=texts.device)
        constant[own] = each.bias / margin + 1 / len(own)
        full = torch.cat([each.weight.T / margin @ codes[own], (constant @ codes).unsqueeze(0)])
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
