"""Cycles of a tile in the one-pass kernel, by unit of a Hopper multiprocessor: python -m benchmarks.one_pass_model

A tile is 64 rows times 64 classes. The program prints the table of docs/one_pass.md. It models, and measures nothing.
"""

from __future__ import annotations

from mmcl_fast.ops.cost_model import RATES
from mmcl_fast.ops.one_pass import TILE, WIDTHS

# Of one multiprocessor and cycle, from NVIDIA's description of the H100. The clock is the boost clock of an H200.
MULTIPLY_ADDS, SHARED_BYTES, EXPONENTIALS, CLOCK = 2048, 128, 64, 1.98e9
# Columns of a block -> tiles in shared memory: kStages in csrc/cuda/one_pass_layout.cuh.
STAGES = {128: 6, 256: 4, 384: 3, 512: 2}
HALF = 2  # bytes of a number
HEADINGS = [
    "D",
    "blocks of a row",
    "tiles in shared memory",
    "shared memory, KB",
    "products, cycles",
    "shared memory, cycles",
    "level-2 cache, cycles",
    "exponentials, cycles",
    "at most, of the product rate",
]


def tile_cycles(columns: int, parts: int, row_blocks: int = 2) -> dict[str, float]:
    """Return the cycles of a tile by unit.

    Args:
        columns: of a block.
        parts: blocks that divide a row.
        row_blocks: blocks of a cluster that share each tile.
    """
    tile = TILE * columns * HALF
    operands = TILE * 16 * HALF  # one operand of 64 rows of a product's step of 16
    logits = columns // 16 * 2 * operands
    own = 4 * 16 * (columns // 2) * HALF  # P in registers: only the tile's half is read
    other = own + 4 * operands
    mail = (parts - 1) * 2 * TILE * TILE * 4  # written by the other block, read by this one
    shared = logits + own + other + tile + TILE * TILE * HALF + mail  # with the copy's and P's writes
    r = RATES[9, 0]
    return {
        "products": 2 * TILE * TILE * columns / MULTIPLY_ADDS,
        "shared memory": shared / SHARED_BYTES,
        "level-2 cache": tile / row_blocks / (r.cache / r.processors / CLOCK),
        "exponentials": TILE * TILE / EXPONENTIALS,
    }


def shared_kilobytes(columns: int, parts: int) -> float:
    """Return the shared memory of a block, without its barriers: z, tiles, two P, and mail."""
    numbers = (1 + STAGES[columns]) * TILE * columns + 2 * TILE * TILE
    return (numbers * HALF + (parts - 1) * TILE * TILE * 4) / 1024


def table() -> str:
    """Return the table as Markdown."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    for width, parts in WIDTHS.items():
        cycles = tile_cycles(width // parts, parts)
        most = cycles["products"] / max(cycles.values())
        cells = [width, parts, STAGES[width // parts], f"{shared_kilobytes(width // parts, parts):.0f}"]
        cells += [f"{value:.0f}" for value in cycles.values()]
        lines.append("| " + " | ".join(map(str, [*cells, f"{100 * most:.0f} %"])) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
