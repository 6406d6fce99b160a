"""Files to tensors: one interface for images, video, audio, depth maps, text and modalities of a user's own."""

from mmcl_fast.media.custom import register
from mmcl_fast.media.decode import check, decode
from mmcl_fast.media.engines.loader import Loader, loader
from mmcl_fast.media.registry import MODALITIES
from mmcl_fast.media.sniff import sniff
from mmcl_fast.media.spec import Spec, TextSpec, VisualSpec, default_spec, spec_from_dict

__all__ = [
    "MODALITIES",
    "Loader",
    "Spec",
    "TextSpec",
    "VisualSpec",
    "check",
    "decode",
    "default_spec",
    "loader",
    "register",
    "sniff",
    "spec_from_dict",
]
