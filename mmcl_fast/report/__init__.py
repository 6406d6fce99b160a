"""A run's numbers for people: one HTML page, and tables for the terminal."""

from mmcl_fast.report.page import write

__all__ = ["write"]
