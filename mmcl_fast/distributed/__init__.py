"""Several processes that learn one stream together, one per GPU or one per share of the CPU cores.

``torchrun`` or ``mmcl-fast train --devices N`` starts them, and all run the same program. With one process every
function here does nothing. With several, all of them must call the collectives in the same order. NCCL carries CUDA
tensors, gloo carries everything else.
"""

from mmcl_fast.distributed.collectives import (
    all_gather_object,
    all_gather_rows,
    all_reduce_gradients,
    broadcast_object,
    broadcast_tensors,
    propagate_errors,
    require_same,
    tree_sum,
)
from mmcl_fast.distributed.process_group import (
    CONCURRENT_RUNS,
    PARENT_PIPE,
    RENDEZVOUS_FILE,
    PeerLost,
    available_cores,
    destroy_process_group,
    exit_with_parent,
    init_process_group,
    is_main_process,
    is_multi_node,
    local_device,
    processes_per_machine,
    rank,
    should_report,
    single_process,
    world_size,
)
from mmcl_fast.distributed.sharding import shard, shard_batch, shard_ranges

__all__ = [
    "CONCURRENT_RUNS",
    "PARENT_PIPE",
    "RENDEZVOUS_FILE",
    "PeerLost",
    "all_gather_object",
    "all_gather_rows",
    "all_reduce_gradients",
    "available_cores",
    "broadcast_object",
    "broadcast_tensors",
    "destroy_process_group",
    "exit_with_parent",
    "init_process_group",
    "is_main_process",
    "is_multi_node",
    "local_device",
    "processes_per_machine",
    "propagate_errors",
    "rank",
    "require_same",
    "shard",
    "shard_batch",
    "shard_ranges",
    "should_report",
    "single_process",
    "tree_sum",
    "world_size",
]
