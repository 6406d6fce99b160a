"""Triton kernels, one file for each operation. mmcl_fast/ops/backends/triton.py launches them."""
