"""Gram matrices that are symmetric to the bit on every processor."""

from __future__ import annotations

from torch import Tensor


def symmetric(matrix: Tensor) -> Tensor:
    """The upper triangle of ``[d, d]``, mirrored to the lower one: equal to its transpose to the bit.

    Use it where a matrix is symmetric by meaning. A matrix product X'X is symmetric to rounding only: some BLAS
    libraries compute its halves in different orders on some processors.
    """
    upper = matrix.triu(1)
    return matrix.triu() + upper.T


# A sum over classes holds no class apart: this stays of a class that was taken out of it.
SHARED_COVARIANCE = "the correlations in the covariance that the classes share"


def gram_matrix(rows: Tensor) -> Tensor:
    """X'X ``[d, d]`` of rows X ``[n, d]``, symmetric to the bit."""
    return symmetric(rows.T @ rows)
