"""COMM, the package's own method."""

from mmcl_fast.methods.comm.method import Comm, CommOptions

__all__ = ["Comm", "CommOptions"]
