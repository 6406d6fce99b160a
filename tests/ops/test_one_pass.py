"""The shares of the one-pass kernel: each tile belongs to one cluster, and no row has more slots than are promised."""

import random
from collections import defaultdict
from pathlib import Path

import pytest

from benchmarks.one_pass_model import table
from mmcl_fast.ops.one_pass import TILE, cluster_shape, padded_width, share_tiles


def slots_of(shares) -> dict[int, set[int]]:
    """Walk as the kernel does; return the clusters of each group of rows, from its first on."""
    found, total = defaultdict(set), shares.groups * shares.tiles
    for tile in range(total):
        group, cluster = tile // shares.tiles, tile // shares.share
        found[group].add(cluster - group * shares.tiles // shares.share)
    return found


@pytest.mark.parametrize("seed", range(200))
def test_every_tile_has_one_cluster_and_a_slot(seed):
    r = random.Random(seed)
    rows, classes = int(2 ** r.uniform(0, 13)), int(2 ** r.uniform(0, 14))
    width, most = r.randint(1, 128) * 8, r.choice([1, 2, 3, 20, 32, 66, 132])
    shares = share_tiles(rows, classes, width, most)
    assert shares.groups * shares.row_blocks * TILE >= rows and shares.tiles * TILE >= classes
    slots = slots_of(shares)
    assert all(found == set(range(len(found))) for found in slots.values())
    assert max(map(len, slots.values())) <= shares.slots
    clusters = -(-shares.groups * shares.tiles // shares.share)
    assert clusters <= most and shares[:2] == cluster_shape(rows, width)


def test_a_large_problem_keeps_all_processors_busy():
    shares = share_tiles(4096, 131072, 512, 66)
    assert shares[:2] == (2, 1) and shares.share * 66 <= shares.groups * shares.tiles * 1.001 + 66 * 2
    assert share_tiles(65536, 1000, 1024, 32).slots == 1  # whole rows


def test_widths():
    assert [padded_width(w) for w in (8, 128, 136, 512, 520, 768, 1024)] == [128, 128, 256, 512, 768, 768, 1024]


def test_the_page_has_the_table_of_the_model():
    assert table() in (Path(__file__).parents[2] / "docs/one_pass.md").read_text()
