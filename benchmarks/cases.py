"""The shapes of the operations' benchmarks, their inputs, and their floors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LOGIT_SCALE = 100.0


@dataclass(frozen=True)
class Loss:
    """B rows, C classes, D wide; text: the class texts want gradients too."""

    b: int
    c: int
    d: int
    text: bool = False

    @property
    def name(self) -> str:
        return f"{self.b}x{self.c}x{self.d}" + ("+text" if self.text else "")

    @property
    def flops(self) -> float:
        return (6.0 if self.text else 4.0) * self.b * self.c * self.d

    def inputs(self, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, float]:
        g = torch.Generator().manual_seed(0)
        text = torch.randn(self.c, self.d, generator=g)
        y = torch.randint(0, self.c, (self.b,), generator=g)
        z = torch.randn(self.b, self.d, generator=g) + text[y]
        return (
            z.to(device, dtype).requires_grad_(),
            text.to(device, dtype).requires_grad_(self.text),
            y.to(device),
            LOGIT_SCALE,
        )


@dataclass(frozen=True)
class Realign:
    """B rows, D wide, source Du wide (None: z), M modalities, rank r; all gradients."""

    b: int
    d: int
    du: int | None
    m: int
    r: int

    @property
    def name(self) -> str:
        return f"{self.b}x{self.d} source {self.du or 'z'} M{self.m} r{self.r}"

    @property
    def flops(self) -> float:
        return 6.0 * self.b * ((self.du or self.d) + self.d) * self.m * self.r

    def bytes(self, size: int) -> float:
        """Least traffic: z, source, de read once forward and back, e and the gradients written once."""
        return size * self.b * (5 * self.d + 3 * (self.du or 0) + 2 * self.m)

    def inputs(self, device: str, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor]:
        g = torch.Generator().manual_seed(0)
        du = self.du or self.d
        shapes = {
            "z": (self.b, self.d),
            "gate": (self.b, self.m),
            "down": (self.m, du, self.r),
            "up": (self.m, self.r, self.d),
        } | ({"source": (self.b, du)} if self.du else {})
        leaves = {
            k: (torch.randn(s, generator=g) * (0.05 if k in ("down", "up") else 1)).to(device, dtype)
            for k, s in shapes.items()
        }
        return (
            {k: v.requires_grad_() for k, v in leaves.items()},
            torch.randn(self.b, self.d, generator=g).to(device, dtype),
        )


SMALL = [
    Loss(256, 100, 512),
    Loss(1024, 1000, 512),
    Loss(4096, 1000, 512),
    Loss(2048, 10000, 512),
    Loss(2048, 50000, 512),
]
LARGE = [Loss(16384, 32768, 768), Loss(4096, 131072, 1024), Loss(4096, 131072, 1024, text=True)]
REALIGN = [
    Realign(b, d, du, 5, r) for b in (4096, 65536) for d in (512, 768) for du in (None, 1664) for r in (16, 32, 64)
]


def devices() -> list[tuple[str, torch.dtype]]:
    return (
        [("cuda", torch.bfloat16), ("cuda", torch.float32)]
        if torch.cuda.is_available()
        else [("cpu", torch.float32), ("cpu", torch.bfloat16)]
    )


def loss_cases() -> list[tuple[Loss, str, torch.dtype]]:
    found = []
    for device, dtype in devices():
        large = device == "cuda" and dtype == torch.bfloat16
        found += [(case, device, dtype) for case in SMALL + (LARGE if large else [])]
    return found


def realign_cases() -> list[tuple[Realign, str, torch.dtype]]:
    """On the CPU the small batch only: 65536 rows take seconds a step in float32."""
    (device, dtype), *_ = devices()
    return [(case, device, dtype) for case in REALIGN if device == "cuda" or case.b == 4096]
