"""Checks one backend on small shapes against the reference on the CPU.

It is the first program to run on a new GPU, and benchmarks/gpu.sh runs it under compute-sanitizer.

python -m tests.ops.small_gpu cuda|triton|cpp [--device cpu]; `profile` runs the three main kernels once, for ncu.
"""

from __future__ import annotations

import argparse
import sys

import torch
from torch import Tensor

from mmcl_fast import ops

BF16, HALF, FLOAT = torch.bfloat16, torch.float16, torch.float32
TOLERANCE = {FLOAT: 2e-5, HALF: 4e-3, BF16: 3e-2}  # of the largest true value
# (rows, classes, width, whether the text wants a gradient); in half precision the last six take Hopper's kernel
LOSSES = [
    (33, 70, 41, True),
    (33, 70, 48, True),
    (5, 3000, 600, False),
    (3, 700, 200, False),
    (64, 64, 128, False),
    (70, 200, 72, False),
    (130, 1000, 256, False),
    (66, 130, 512, False),
]


def sample(b: int, c: int, d: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return z, text, labels and weights."""
    g = torch.Generator().manual_seed(b + c + d)
    text = torch.randn(c, d, generator=g)
    labels = torch.randint(0, c, (b,), generator=g)
    z = 3 * torch.randn(b, d, generator=g) + text[labels]
    labels[1::5] = -100
    return z.to(dtype), text.to(dtype), labels, torch.rand(b, generator=g) + 0.5


def loss_values(backend: str, device: str, arguments: tuple[Tensor, ...], text_too: bool, wide: bool) -> list[Tensor]:
    """Return the loss and its gradients as float64; wide: computed in float64."""
    z, text, labels, weight = (x.to(device) for x in arguments)
    if wide:
        z, text = z.double(), text.double()
    leaves = [z.requires_grad_()] + ([text.requires_grad_()] if text_too else [])
    loss = ops.alignment_loss(z, text, labels, weight=weight, logit_scale=20.0, backend=backend)
    return [loss.detach().cpu().double(), *(x.cpu().double() for x in torch.autograd.grad(loss, leaves))]


def realign_values(backend: str, device: str, dtype: torch.dtype, wide: bool) -> list[Tensor]:
    """Return the unit rows and all gradients as float64; wide: computed in float64."""
    g = torch.Generator().manual_seed(0)
    shapes = {"z": (33, 40), "gate": (33, 3), "down": (3, 24, 7), "up": (3, 7, 40), "source": (33, 24)}
    made = {k: (0.3 * torch.randn(shape, generator=g)).to(dtype).to(device) for k, shape in shapes.items()}
    leaves = {k: (v.double() if wide else v).requires_grad_() for k, v in made.items()}
    e = ops.realign(**leaves, backend=backend)
    upstream = torch.randn(e.shape, generator=g).bfloat16().to(device, e.dtype)
    return [
        e.detach().cpu().double(),
        *(x.cpu().double() for x in torch.autograd.grad(e, list(leaves.values()), upstream)),
    ]


def compare(name: str, got: list[Tensor], want: list[Tensor], dtype: torch.dtype) -> bool:
    """Print the largest error relative to the largest true value; return whether it is small."""
    error = max(((a - b).abs().max() / b.abs().max().clamp_min(1e-6)).item() for a, b in zip(got, want, strict=True))
    good = error <= TOLERANCE[dtype]  # False for NaN
    print(f"{name}: error {error:.1e}{'' if good else ' wrong'}", flush=True)
    return good


def check(backend: str, device: str) -> bool:
    """Compare every case; return whether all errors are small."""
    good = True
    triton = backend == "triton"  # compiles for each width and dtype, which takes a minute for all
    for dtype in (FLOAT, BF16) if triton else (FLOAT, BF16, HALF):
        kind = str(dtype).removeprefix("torch.")
        for b, c, d, text_too in LOSSES[1::2] if triton else LOSSES:
            arguments = sample(b, c, d, dtype)
            want = loss_values("reference", "cpu", arguments, text_too, wide=True)
            got = loss_values(backend, device, arguments, text_too, wide=False)
            good &= compare(f"loss {b}x{c}x{d}{' and texts' if text_too else ''} {kind}", got, want, dtype)
        want = realign_values("reference", "cpu", dtype, wide=True)
        good &= compare(f"realign {kind}", realign_values(backend, device, dtype, wide=False), want, dtype)
    return good


def profile() -> None:
    """Run Hopper's one-pass kernel, Triton's, and the row kernel between library products, once each."""
    from mmcl_fast.ops.backends import triton as triton_

    triton_._time = lambda *_: 0.0  # no launches for timing: ncu would record them
    for backend, b, c, d in (("cuda", 4096, 131072, 512), ("triton", 4096, 131072, 256), ("cuda", 4096, 3840, 768)):
        z, text = (torch.randn(n, d, device="cuda", dtype=BF16) for n in (b, c))
        labels = torch.randint(0, c, (b,), device="cuda")
        ops.alignment_loss(z.requires_grad_(), text, labels, logit_scale=50.0, backend=backend).backward()
        torch.cuda.synchronize()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.ops.small_gpu")
    parser.add_argument("backend", choices=["cuda", "triton", "cpp", "profile"])
    parser.add_argument("--device", default="cuda")
    chosen = parser.parse_args()
    if chosen.backend == "profile":
        profile()
        return 0
    if not (state := ops.backends()[chosen.backend]).available:
        print(f"error: {chosen.backend}: {state.why}")
        return 1
    good = check(chosen.backend, chosen.device)
    print("all right" if good else "wrong numbers: see above", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
