"""A model of each backend's time on a GPU, for shapes that were not measured there.

A plan is a list of stages that run one after the other::

    time of a stage = max(FLOPs / rate, bytes of device memory / rate, bytes of level-2 cache / rate)
    time of a plan  = max(sum of its stages, its launches on the host)

docs/kernels.md gives every formula and the source of each number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from mmcl_fast.ops.backends.gpu import CHUNK_BYTES, ROWS, TEXT_ROWS, split_classes
from mmcl_fast.ops.one_pass import TILE, WIDTHS, cluster_shape, padded_width, share_tiles

HALF = (torch.float16, torch.bfloat16)
ONE_PASS_WIDTH = {"cuda": max(WIDTHS), "triton": 256}  # the widest z whose sums over classes fit the registers
LAUNCH = {"product": 5e-6, "cuda": 3e-6, "triton": 12e-6}  # assumed: seconds on the host for a launch
# Assumed shares of the product rate: of a large library product, and of the kernels that compute both products.
SHARE = {"product": 0.8, "cuda": 0.75, "triton": 0.45, "fused shift": 0.45}


@dataclass(frozen=True)
class Rates:
    """Rates of one GPU architecture."""

    half: float  # FLOP/s of half-precision products
    single: float  # FLOP/s of float32 products
    memory: float  # bytes/s of device memory
    cache: float  # bytes/s of the level-2 cache
    processors: int  # multiprocessors
    source: str = "nominal"


RATES = {
    (8, 0): Rates(312e12, 19.5e12, 1.9e12, 4e12, 108),
    (8, 6): Rates(150e12, 37e12, 0.7e12, 2e12, 84),
    (8, 9): Rates(362e12, 90e12, 0.86e12, 4e12, 142),
    (9, 0): Rates(790e12, 50e12, 4.3e12, 5.5e12, 132, "half and memory measured on an H200, the others nominal"),
    (10, 0): Rates(2250e12, 80e12, 7.7e12, 10e12, 148),
    (11, 0): Rates(500e12, 8e12, 0.27e12, 1.5e12, 20),
    (12, 0): Rates(210e12, 105e12, 1.8e12, 6e12, 170),
}


def rates(capability: tuple[int, int]) -> Rates:
    """Return the rates of the newest known architecture that is not newer, or else of the oldest known one."""
    known = [c for c in RATES if c <= capability]
    return RATES[max(known, default=min(RATES))]


class LossShape(NamedTuple):
    """The shapes of an alignment loss: z (rows, width), text (classes, width)."""

    rows: int
    classes: int
    width: int
    dtype: torch.dtype
    text_gradient: bool = False
    aligned: bool = True  # rows of z and text begin at multiples of 16 bytes

    @property
    def op(self) -> str:
        return "alignment_loss"

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.rows, self.classes, self.width

    @property
    def grads(self) -> str:
        return "z+text" if self.text_gradient else "z"


class RealignShape(NamedTuple):
    """The shapes of a re-alignment with all its gradients: z (rows, width), source (rows, source)."""

    rows: int
    width: int
    source: int
    groups: int  # modalities
    rank: int  # of each modality
    dtype: torch.dtype

    @property
    def op(self) -> str:
        return "realign"

    @property
    def grads(self) -> str:
        return "all"

    @property
    def aligned(self) -> bool:
        return True

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.rows, self.width, self.source, self.groups * self.rank


Problem = LossShape | RealignShape


@dataclass(frozen=True)
class Stage:
    """One step of a plan, such as a matrix product."""

    flops: float = 0.0
    share: float = 1.0  # of the product rate
    memory: float = 0.0  # bytes
    cache: float = 0.0  # bytes of level-2 cache

    def seconds(self, dtype: torch.dtype, r: Rates) -> float:
        peak = r.half if dtype in HALF else r.single
        return max(self.flops / (peak * self.share), self.memory / r.memory, self.cache / r.cache)


@dataclass(frozen=True)
class Plan:
    """The stages by which a backend computes a problem."""

    name: str
    stages: tuple[Stage, ...]
    host: float  # seconds of all launches

    def seconds(self, dtype: torch.dtype, r: Rates) -> float:
        return max(sum(stage.seconds(dtype, r) for stage in self.stages), self.host)


def one_pass(backend: str, p: Problem, capability: tuple[int, int]) -> bool:
    """Return whether the backend has a kernel with both products for this problem."""
    if not isinstance(p, LossShape) or p.text_gradient or p.dtype not in HALF or p.width > ONE_PASS_WIDTH[backend]:
        return False
    return backend == "triton" or (capability == (9, 0) and p.aligned and p.width % 8 == 0)


def _fill(blocks: int, processors: int) -> float:
    """Return the mean share of busy multiprocessors: the last round of blocks may not fill them all."""
    return blocks / (-(-blocks // processors) * processors)


def _one_pass(backend: str, p: LossShape, r: Rates) -> Plan:
    """Return the plan of the kernel with both products: norms, one walk over the texts, and the finish of each row."""
    size = p.dtype.itemsize
    text = p.classes * p.width * size
    if backend == "cuda":
        blocks = math.prod(cluster_shape(p.rows, p.width))
        shares = share_tiles(p.rows, p.classes, p.width, r.processors // blocks)
        # All blocks run at once, and the kernel ends with a block that has a whole share.
        flops = 4.0 * TILE * TILE * padded_width(p.width) / shares.parts * shares.share * r.processors
        share, reads, slots = SHARE[backend], shares.groups, shares.slots
    else:
        row_blocks = -(-p.rows // 64)
        slots, _ = split_classes(p.classes, row_blocks, 2 * r.processors)
        flops = 4.0 * 64 * row_blocks * p.classes * next(w for w in (64, 128, 256) if p.width <= w)
        share, reads = SHARE[backend] * _fill(row_blocks * slots, r.processors), row_blocks
    sums = slots * p.rows * p.width * 4
    return Plan(
        f"{backend}, one pass",
        (
            Stage(memory=text + p.rows * p.width * size),  # norms
            # Every group of rows reads all texts from the level-2 cache; only the first finds them in memory.
            Stage(flops, share, text, reads * text),
            Stage(memory=sums, cache=3 * sums + 3 * p.rows * p.width * size),  # written once, read twice
        ),
        4 * LAUNCH[backend],
    )


def _chunks(backend: str, p: LossShape, r: Rates) -> Plan:
    """Return the plan of library products around a row kernel, over chunks of logits that stay in the cache."""
    size, product = p.dtype.itemsize, 2.0 * p.rows * p.classes * p.width
    rows = min(p.rows, TEXT_ROWS if p.text_gradient else ROWS)
    cols = p.classes if p.text_gradient else min(p.classes, max(512, CHUNK_BYTES // (rows * size)))
    chunks = -(-p.rows // rows) * -(-p.classes // cols)
    tiles = -(-rows // 128)
    first = SHARE["product"] * _fill(tiles * -(-cols // 128), r.processors)
    second = SHARE["product"] * _fill(tiles * -(-p.width // 128), r.processors)
    logits = float(p.rows) * p.classes * size
    spilled = logits if rows * cols * size > 2 * CHUNK_BYTES else 0.0  # bytes of chunks that the cache cannot hold
    sums = chunks * rows * p.width * (8 + size)  # the sums over classes are read and written once a chunk
    stages = [
        Stage(memory=(p.classes + p.rows) * p.width * size),  # norms
        Stage(product, first, spilled, logits),
        Stage(memory=3 * spilled, cache=3 * logits),  # the maximum, then exponentials in place
        Stage(product, second, spilled, logits),
        Stage(cache=sums),
        Stage(memory=p.rows * p.width * (4 + 3 * size)),
    ]
    if p.text_gradient:
        gradient = -(-p.rows // rows) * p.classes * p.width * 12.0  # read and added to in float32
        stages += [Stage(product, SHARE["product"], spilled, logits), Stage(memory=gradient)]
    launches = chunks * (3 * LAUNCH["product"] + LAUNCH[backend]) + 3 * LAUNCH[backend]
    return Plan(f"{backend}, chunks", tuple(stages), launches)


def _realign(backend: str, p: RealignShape, r: Rates) -> Plan:
    """Return the plan of e = normalize(z + (h gate) up), h = source down, and of its five gradients."""
    size, ranks = p.dtype.itemsize, p.groups * p.rank
    wide, narrow = float(p.rows * p.width * size), float(p.rows * ranks * size)
    source = float(p.rows * p.source * size)
    first, second = 2.0 * p.rows * p.source * ranks, 2.0 * p.rows * ranks * p.width
    share = SHARE["product"]
    if backend == "triton":  # the second product, the sum and the norm in one kernel, once through e
        up = -(-p.rows // 64) * ranks * p.width * size
        forward = [Stage(second, SHARE["fused shift"], narrow + 2 * wide, 2 * wide + up)]
        products, kernels = 5, 3
    else:  # gates, product, sum and norm
        forward = [Stage(memory=2 * narrow), Stage(second, share, narrow + wide), Stage(memory=4 * wide)]
        products, kernels = 6, 4
    backward = [
        Stage(memory=3 * wide),  # projection
        Stage(second, share, wide + narrow),  # dh
        Stage(memory=4 * narrow),  # gates
        Stage(second, share, wide + narrow),  # dup
        Stage(first, share, source + narrow),  # ddown
        Stage(first, share, source + narrow),  # dsource
    ]
    launches = products * LAUNCH["product"] + kernels * LAUNCH[backend]
    return Plan(f"{backend}", (Stage(first, share, source + narrow), *forward, *backward), launches)


def plan(backend: str, p: Problem, capability: tuple[int, int]) -> Plan:
    """Return the plan of ``backend`` ("cuda" or "triton") on a GPU of this compute capability."""
    r = rates(capability)
    if isinstance(p, RealignShape):
        return _realign(backend, p, r)
    return _one_pass(backend, p, r) if one_pass(backend, p, capability) else _chunks(backend, p, r)


def seconds(backend: str, p: Problem, capability: tuple[int, int]) -> float:
    """Return the expected seconds of ``backend`` ("cuda" or "triton") for the problem."""
    return plan(backend, p, capability).seconds(p.dtype, rates(capability))
