"""The Triton backend in Triton's interpreter, in a process of its own: triton reads TRITON_INTERPRET at import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]

SCRIPT = """
import torch
from tests.ops.cases import check_loss, check_realign
dtypes = [torch.float32, torch.bfloat16, torch.float16]
{body}
print("compared", flush=True)
"""

BODIES = {
    "one pass and chunks": """
for dtype in dtypes:
    for shape in ((1, 1, 3), (5, 1, 16), (65, 70, 64), (9, 600, 40)):
        for options in ({}, {"reduction": "none", "weighted": True}, {"label_smoothing": 0.1, "ignored":
        True}):
            check_loss("triton", dtype, *shape, grads=("z", "weight", "logit_scale"), **options)
""",
    "wide rows": """
for dtype in dtypes:
    check_loss("triton", dtype, 20, 300, 272, weighted=True)
    check_loss("triton", dtype, 20, 300, 144, scale=100.0, spread=0.1)
""",
    "text gradient and many chunks": """
from mmcl_fast.ops.backends import gpu
gpu.CHUNK_BYTES, gpu.ROWS, gpu.TEXT_ROWS = 4096, 16, 8
for dtype in dtypes:
    check_loss("triton", dtype, 37, 1300, 272, scale=100.0, ignored=True)
    for reduction in ("mean", "none"):
        check_loss("triton", dtype, 19, 130, 48, grads=("z", "text"), reduction=reduction,
        label_smoothing=0.1,
                   weighted=True, ignored=True)
""",
    "realign": """
for dtype in dtypes:
    for shape in ((1, 1, None, 1, 1), (3, 8, 5, 1, 2), (70, 48, None, 5, 16), (33, 130, 77, 3, 7)):
        check_realign("triton", dtype, *shape)
""",
    "scale as a tensor": """
from mmcl_fast import ops
for dtype in dtypes:
    z, text = torch.randn(8, 20).to(dtype), torch.randn(300, 20).to(dtype)
    y = torch.arange(8)
    with_float = ops.alignment_loss(z, text, y, logit_scale=30.0, backend="triton")
    torch.testing.assert_close(ops.alignment_loss(z, text, y, logit_scale=torch.tensor(30.0),
    backend="triton"), with_float)
""",
    "labels out of range": """
from mmcl_fast.ops.arguments import AlignmentArguments
from mmcl_fast.ops.backends import triton as triton_
z, text = torch.randn(4, 16).half(), torch.randn(5, 16).half()
labels = torch.tensor([0, 5, -1, 4])
rows = triton_.BACKEND.alignment_rows(AlignmentArguments(z, text, labels, None, 10.0, 0.0, -100, "none", 1), None)
assert rows.loss.isnan().tolist() == [False, True, True, False], rows
""",
}


@pytest.mark.parametrize("name", BODIES)
def test_interpreted(name):
    body = "".join(line + "\n" for line in BODIES[name].splitlines())
    env = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT.format(body=body)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "compared" in done.stdout
