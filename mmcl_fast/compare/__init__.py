"""Compare methods over several seeds, or COMM with its parts changed: one table, plots, and tests of the differences.

``tune`` chooses each method's options on validation samples first.

Example::

    from mmcl_fast.compare import ablate, compare, tune

    tune("demo", ["comm", "ridge"], trials=16, out="runs/tuned", overrides=["stream.validation=0.2"])
    compare("demo", ["comm", "ridge"], seeds=range(5), out="runs/compare-tuned", tuned="runs/tuned")
    compare("demo", ["comm", "ridge"], seeds=range(5), out="runs/compare", jobs=2)
    ablate("demo", ["prompts", "rank=8"], seeds=range(5), out="runs/ablate", jobs=2)
"""

from mmcl_fast.compare.sweep import ablate, compare
from mmcl_fast.compare.tuning import tune
from mmcl_fast.compare.variants import SWITCHES

__all__ = ["SWITCHES", "ablate", "compare", "tune"]
