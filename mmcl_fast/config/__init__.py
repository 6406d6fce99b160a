"""The config of a run: its keys, loading it from TOML, and reading it back from a run folder."""

from mmcl_fast.config.load import SHIPPED, build_config, find_config, load_config, parse_override
from mmcl_fast.config.run_config import read_json_object, read_run_config, read_run_values, require_same_data
from mmcl_fast.config.schema import DEVICE, LARGEST_SEED, Config

__all__ = [
    "DEVICE",
    "LARGEST_SEED",
    "SHIPPED",
    "Config",
    "build_config",
    "find_config",
    "load_config",
    "parse_override",
    "read_json_object",
    "read_run_config",
    "read_run_values",
    "require_same_data",
]
