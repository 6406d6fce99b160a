"""A learner as a folder of graphs that run without this package: ONNX, or torch.export programs."""

from mmcl_fast.export.folder import FORMATS, TOLERANCE, Exported, export, export_run

__all__ = ["FORMATS", "TOLERANCE", "Exported", "export", "export_run"]
