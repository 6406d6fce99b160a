"""A ``--use`` file whose import makes recognition abort on some bytes, in the process that imports it."""

from __future__ import annotations

import os

from mmcl_fast.media.engines.isolation import worker
from mmcl_fast.media.source import head

before = worker.sniff


def sniff(source):
    if head(source, 20) == b"planted abort":
        os.abort()
    return before(source)


worker.sniff = sniff
