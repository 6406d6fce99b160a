"""A ``--use`` file: in a process that imports it, recognising certain bytes aborts the process."""

from __future__ import annotations

import os

from mmcl_fast.media.engines.isolation import worker
from mmcl_fast.media.source import head

real_sniff = worker.sniff


def sniff(source):
    if head(source, 20) == b"planted abort":
        os.abort()
    return real_sniff(source)


worker.sniff = sniff
