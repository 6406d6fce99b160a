"""Compiles a Triton kernel without a GPU and reads registers, spills, shared memory and matrix instructions."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

SHARED_LIMIT = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}  # bytes of a block
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def usage(cubin: bytes) -> list[dict[str, int | str]]:
    """Return name, REG, STACK, LOCAL and SHARED of each kernel in a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([str(CUOBJDUMP), "-res-usage", file.name], capture_output=True, text=True, check=True)
    found = []
    for name, line in re.findall(r"Function (\S+):\s*\n\s*(REG:.*)", text.stdout + text.stderr):
        found.append({"name": name} | {k: int(v) for k, v in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", line)})
    return found


def cubins(library: str, arch: str) -> list[bytes]:
    """Return the machine code for one architecture inside a shared library."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([str(CUOBJDUMP), "-xelf", arch, library], cwd=folder, capture_output=True, check=True)
        return [file.read_bytes() for file in sorted(Path(folder).glob("*.cubin"))]


def machine_code(library: str, arch: str) -> list[str]:
    """Return the disassembly of each object for one architecture inside a shared library."""
    text = subprocess.run([str(CUOBJDUMP), "-sass", "-arch", arch, library], capture_output=True, text=True, check=True)
    return text.stdout.split("Fatbin elf code:")


def compile_kernel(
    kernel, types: dict[str, str], constants: dict[str, object], capability: int = 90, **options
) -> dict[str, int]:
    """Compile a kernel and return what it uses.

    types: argument -> "*bf16", "i32" ...; every argument of the kernel is in types or constants.
    """
    function = getattr(kernel, "fn", kernel)
    if not isinstance(function, triton.JITFunction):
        function = triton.JITFunction(function)
    signature = {a: types.get(a, "constexpr") for a in function.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, a in enumerate(function.arg_names)
        if types.get(a, "").startswith("*") or a in ("ldz", "ldt", "width")
    }
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=aligned)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    (used,) = usage(made.asm["cubin"])
    return {
        "registers": used["REG"],
        "stack": used["STACK"],
        "local": used["LOCAL"],
        "shared": made.metadata.shared,
        "wgmma": made.asm["ptx"].count("wgmma.mma_async"),
        "products": sum(made.asm["ptx"].count(name) for name in ("wgmma.mma_async", "mma.sync", "tcgen05.mma")),
    }
