"""Triton kernels, one file per operation; launched by mmcl_fast.ops."""
