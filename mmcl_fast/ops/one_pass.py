"""The division of work among the blocks of the one-pass CUDA kernel (csrc/cuda/one_pass_sm90a.cu)."""

from __future__ import annotations

from typing import NamedTuple

TILE = 64  # rows of a block, and classes of a tile
WIDTHS = {128: 1, 256: 1, 512: 1, 768: 2, 1024: 2}  # padded width -> blocks (parts) that divide its columns
LEAST_TILES = 4  # of a cluster: fewer would cost more in partial sums than they save


class Shares(NamedTuple):
    """Clusters of ``row_blocks`` times ``parts`` blocks, which all run at once and take equal numbers of tiles."""

    row_blocks: int  # blocks of 64 rows in a cluster
    parts: int  # blocks that divide the columns of a row
    groups: int  # of rows, 64 row_blocks each
    tiles: int  # of classes, for each group
    share: int  # tiles of a cluster
    slots: int  # the largest number of clusters that share a row


def padded_width(width: int) -> int:
    """Return the width that the kernel computes with. ``width`` is at most 1024."""
    return next(padded for padded in WIDTHS if width <= padded)


def cluster_shape(rows: int, width: int) -> tuple[int, int]:
    """Return the blocks of rows in a cluster, and the blocks that divide the columns of a row."""
    return 2 if rows > TILE else 1, WIDTHS[padded_width(width)]


def share_tiles(rows: int, classes: int, width: int, clusters: int) -> Shares:
    """Divide the tiles of all rows evenly among clusters.

    Args:
        rows: of z.
        classes: rows of text.
        width: columns of both, at most 1024.
        clusters: how many the GPU runs at once. One more would wait until all others have ended.
    """
    row_blocks, parts = cluster_shape(rows, width)
    groups, tiles = -(-rows // (TILE * row_blocks)), -(-classes // TILE)
    if groups >= 8 * clusters:  # whole rows: at most an eighth waits at the end, and there are no partial sums
        return Shares(row_blocks, parts, groups, tiles, -(-groups // clusters) * tiles, 1)
    share = max(LEAST_TILES, -(-groups * tiles // clusters))
    share += share % 2  # tiles go in pairs
    return Shares(row_blocks, parts, groups, tiles, share, -(-(tiles - 1) // share) + 1)
