"""A learner as a folder of graphs that run without this package: ONNX, or torch.export programs.

Example::

    from mmcl_fast.export import export_run

    exported = export_run("runs/demo", "demo-onnx", format="onnx")
    print(exported.files)  # name -> bytes; README.md says how to run the graphs
"""

from mmcl_fast.export.folder import FORMATS, TOLERANCE, Exported, export, export_run

__all__ = ["FORMATS", "TOLERANCE", "Exported", "export", "export_run"]
