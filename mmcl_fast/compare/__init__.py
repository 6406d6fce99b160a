"""Compare methods over several seeds, or COMM with its parts changed: one table, plots, and tests of the differences.

Example::

    from mmcl_fast.compare import ablate, compare

    compare("demo", ["comm", "ridge"], seeds=range(5), out="runs/compare", jobs=2)
    ablate("demo", ["prompts", "rank=8"], seeds=range(5), out="runs/ablate", jobs=2)
"""

from mmcl_fast.compare.sweep import ablate, compare
from mmcl_fast.compare.variants import SWITCHES

__all__ = ["SWITCHES", "ablate", "compare"]
