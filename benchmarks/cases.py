"""The cases of the operations' benchmark: shapes, inputs, and the least arithmetic and traffic of each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmcl_fast.ops import cost_model

LOGIT_SCALE = 100.0


@dataclass(frozen=True)
class LossCase:
    """An alignment loss of B = b rows, C = c classes and width D = d."""

    b: int
    c: int
    d: int
    text: bool = False  # whether the class texts want a gradient too
    op = "alignment_loss"

    @property
    def name(self) -> str:
        return f"{self.b}x{self.c}x{self.d}" + ("+text" if self.text else "")

    @property
    def flops(self) -> float:
        return (6.0 if self.text else 4.0) * self.b * self.c * self.d

    def bytes(self, size: int) -> float:
        """Return the least traffic for numbers of ``size`` bytes.

        z, the texts and the labels are read once; dz, and the texts' gradient if wanted, are written once.
        """
        return size * (2 * self.b * self.d + (2 if self.text else 1) * self.c * self.d) + 8 * self.b

    def problem(self, dtype: torch.dtype) -> cost_model.LossShape:
        return cost_model.LossShape(self.b, self.c, self.d, dtype, self.text)

    def inputs(self, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, float]:
        """Return z, text, labels and the logit scale."""
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
class RealignCase:
    """A re-alignment with all gradients: B = b rows, width D = d, M = m modalities of rank r."""

    b: int
    d: int
    du: int | None  # width of the source; None: the source is z
    m: int
    r: int
    op = "realign"

    @property
    def name(self) -> str:
        return f"{self.b}x{self.d} source {self.du or 'z'} M{self.m} r{self.r}"

    @property
    def flops(self) -> float:
        return 6.0 * self.b * ((self.du or self.d) + self.d) * self.m * self.r

    def bytes(self, size: int) -> float:
        """Return the least traffic for numbers of ``size`` bytes.

        z, source and de are read once forward and once backward; e and the gradients are written once.
        """
        return size * self.b * (5 * self.d + 3 * (self.du or 0) + 2 * self.m)

    def problem(self, dtype: torch.dtype) -> cost_model.RealignShape:
        return cost_model.RealignShape(self.b, self.d, self.du or self.d, self.m, self.r, dtype)

    def inputs(self, device: str, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor]:
        """Return the arguments by name, and the gradient of e."""
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
    LossCase(256, 100, 512),
    LossCase(1024, 1000, 512),
    LossCase(4096, 1000, 512),
    LossCase(2048, 10000, 512),
    LossCase(2048, 50000, 512),
]
FLAGSHIP = [LossCase(4096, 131072, d) for d in (512, 768, 1024)]
LARGE = [
    LossCase(4096, 131072, 256),
    LossCase(4096, 131072, 512, text=True),
    LossCase(4096, 131072, 1024, text=True),
    LossCase(16384, 32768, 768),
]
REALIGN = [
    RealignCase(b, d, du, 5, r) for b in (4096, 65536) for d in (512, 768) for du in (None, 1664) for r in (16, 32, 64)
]
Case = tuple[LossCase | RealignCase, str, torch.dtype]  # with the device and the dtype


def gpu_cases() -> list[Case]:
    """Return the cases of a GPU. The most important come first, so that a run that is cut off has measured them."""
    first: list[LossCase | RealignCase] = [
        *FLAGSHIP[:1],
        *REALIGN[12:13],
        *SMALL[3:4],
        *FLAGSHIP[1:],
        *LARGE[:2],
        *SMALL[:1],
        *REALIGN[14:15],
    ]
    rest: list[LossCase | RealignCase] = [*SMALL, *LARGE, *REALIGN]
    half = [*first, *(c for c in rest if c not in first)]
    found: list[Case] = [(case, "cuda", torch.bfloat16) for case in half]
    found.insert(6, (FLAGSHIP[0], "cuda", torch.float16))
    single: list[LossCase | RealignCase] = [*SMALL, *REALIGN[:1]]
    return found + [(case, "cuda", torch.float32) for case in single]


def cpu_cases() -> list[Case]:
    """Return the cases of the CPU. Realign has the small batch only: 65536 rows take seconds a step in float32."""
    small: list[LossCase | RealignCase] = [*SMALL, *(case for case in REALIGN if case.b == 4096)]
    loss: list[LossCase | RealignCase] = list(SMALL)
    return [(c, "cpu", torch.float32) for c in small] + [(c, "cpu", torch.bfloat16) for c in loss]


def all_cases() -> list[Case]:
    """Return the cases of this machine."""
    return gpu_cases() if torch.cuda.is_available() else cpu_cases()


def label(case: Case) -> str:
    """Return the name of a case: "alignment_loss 256x100x512 cpu float32"."""
    what, device, dtype = case
    return f"{what.op} {what.name} {device} {str(dtype).removeprefix('torch.')}"


def select_cases(cases: list[Case], expression: str) -> list[Case]:
    """Return the cases whose label contains the words, joined by ``and``, ``or`` and ``not``: "realign and not r64"."""

    def fits(text: str) -> bool:
        return any(
            all(
                (part.removeprefix("not ").strip() in text) != part.startswith("not ") for part in either.split(" and ")
            )
            for either in expression.split(" or ")
        )

    return [case for case in cases if fits(label(case))]
