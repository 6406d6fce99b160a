"""Compiles csrc/ into mmcl_fast._C with ninja and without torch, the CUDA kernels too if there is an nvcc.

MMCL_FAST_CUDA=0 forbids CUDA, =1 requires it. MMCL_FAST_CUDA_ARCHS="80;90a" replaces the list of architectures.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
ARCHS = ["80", "90a", "100", "120"]
CPU_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-fopenmp"]
# No -ffast-math: NaN must come through, and fast_exp rounds by adding and subtracting. `omp simd` lets the compiler
# reorder sums without it.
ROW_FLAGS = ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
ISAS = {
    "generic": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mprefer-vector-width=512"],
}


def run(*command: object) -> str:
    """Return what the command prints; raises CalledProcessError if it fails."""
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout


def find_nvcc() -> Path | None:
    """Return the nvcc of CUDA_HOME, CUDA_PATH, /usr/local/cuda or the PATH."""
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        if home and (Path(home) / "bin" / "nvcc").is_file():
            return Path(home) / "bin" / "nvcc"
    found = shutil.which("nvcc")
    return Path(found) if found else None


def cuda_home(nvcc: Path) -> Path:
    """Return the toolkit's folder. nvcc itself tells it, because a link or a wrapper on the PATH lies elsewhere."""
    printed = subprocess.run([str(nvcc), "--dryrun", "-x", "cu", "-E", os.devnull], capture_output=True, text=True)
    top = re.search(r"TOP=(\S+)", printed.stderr)
    return Path(top.group(1)).resolve() if top else nvcc.resolve().parent.parent


def choose_nvcc() -> Path | None:
    """Return the nvcc to compile with, or None for a build without CUDA, as MMCL_FAST_CUDA says."""
    choice = os.environ.get("MMCL_FAST_CUDA", "")
    if choice not in ("", "0", "1"):
        raise SystemExit(f"MMCL_FAST_CUDA must be 0 (forbid) or 1 (require), not {choice!r}")
    nvcc = None if choice == "0" else find_nvcc()
    if nvcc is None and choice == "1":
        raise SystemExit("MMCL_FAST_CUDA=1 but no nvcc on PATH or under CUDA_HOME: install the CUDA toolkit")
    if nvcc is None:
        why = "MMCL_FAST_CUDA=0" if choice == "0" else "no nvcc on PATH or under CUDA_HOME"
        print(f"mmcl-fast: building for the CPU only ({why})", file=sys.stderr)
    return nvcc


def architecture_flags(nvcc: Path) -> tuple[list[str], list[str], list[str]]:
    """Return nvcc's flags for general kernels, its flags for Hopper's kernels (*_sm90a.cu), and the architectures."""
    asked = [a for a in re.split(r"[;, ]+", os.environ.get("MMCL_FAST_CUDA_ARCHS", "")) if a]
    known = {c.removeprefix("sm_") for c in run(nvcc, "--list-gpu-code").split()}
    archs = [a for a in asked or ARCHS if a.rstrip("af") in known]
    if missing := [a for a in asked if a not in archs]:
        raise SystemExit(
            f"MMCL_FAST_CUDA_ARCHS: this nvcc does not know {', '.join(missing)}; it knows {', '.join(sorted(known))}"
        )
    flags = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in archs]
    plain = sorted({a for a in archs if a.isdigit()}, key=int)
    # PTX of the oldest architecture serves GPUs between the listed ones, PTX of the newest serves later GPUs.
    ptx = sorted({*plain[:1], *plain[-1:]}, key=int)
    flags += [f"-gencode=arch=compute_{a},code=compute_{a}" for a in ptx]
    hopper = ["-gencode=arch=compute_90a,code=sm_90a"] if "90a" in archs else []
    return flags, hopper, archs + [f"{a}+PTX" for a in ptx]


def nvcc_host(cxx: list[str]) -> list[str]:
    """Return nvcc's flag for the C++ compiler, which must be one program without a launcher or flags."""
    programs = [
        word for word in cxx if not word.startswith("-") and Path(word).name not in ("ccache", "sccache", "distcc")
    ]
    return [f"-ccbin={shutil.which(programs[0]) or programs[0]}"] if programs else []


def quote_flags(flags: list[str]) -> str:
    """Return flags as they stand in ninja's file: ninja runs commands in a shell, which splits a path at a space."""
    return " ".join(shlex.quote(flag) for flag in flags).replace("$", "$$")


def escape_path(path: object) -> str:
    """Return a path as it stands on a build line of ninja's file; ninja itself quotes it for the shell."""
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


class NinjaBuild(build_ext):
    """Builds the extension through build.ninja, so that files and architectures compile in parallel."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        out = Path(self.get_ext_fullpath(ext.name)).resolve()
        out.parent.mkdir(parents=True, exist_ok=True)
        tag = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        writable = os.access(ROOT, os.W_OK)
        work = ROOT / "build" / f"ninja-{tag}" if writable else Path(self.build_temp).resolve()
        work.mkdir(parents=True, exist_ok=True)
        # CXX may be several words, such as "ccache g++". A path found on PATH is one word, and may contain a space.
        found = shutil.which("c++") or shutil.which("g++") or "c++"
        cxx = shlex.split(os.environ.get("CXX") or shlex.quote(found))
        nvcc = choose_nvcc()
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        flags = CPU_FLAGS + (["-DMMCL_X86"] if x86 else [])
        lines = [
            f"cxx = {quote_flags(cxx)}",
            "rule cxx",
            "  command = $cxx -MMD -MF $out.d $flags -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = c++ $out",
        ]
        objects: list[str] = []

        def compile_one(source: Path, rule: str, extra: list[str], suffix: str = "") -> None:
            name = f"{source.parent.name}_{source.stem}{suffix}.o"
            # Relative: nvcc refuses some characters that the checkout's path may contain.
            lines.append(f"build {name}: {rule} {escape_path(os.path.relpath(source, work))}")
            lines.append(f"  flags = {quote_flags(extra)}")
            objects.append(name)

        cpu = ROOT / "csrc" / "cpu"
        compile_one(cpu / "dispatch.cpp", "cxx", flags)
        for source in sorted(cpu.glob("rows_*.cpp")):
            for isa in ISAS if x86 else ["generic"]:
                compile_one(source, "cxx", flags + ROW_FLAGS + ISAS[isa] + [f"-DMMCL_ISA={isa}"], f"_{isa}")
        info = {
            "compiler": run(*cxx, "--version").splitlines()[0],
            "flags": " ".join(flags + ROW_FLAGS),
            "isas": list(ISAS) if x86 else ["generic"],
            "python": platform.python_version(),
            "cuda": None,
        }
        includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}", "-I."]
        link = ["-shared", "-fopenmp", "-Wl,--exclude-libs,ALL"]
        if nvcc:
            link += self.add_cuda(nvcc, cxx, lines, compile_one, info, includes)
            flags = [*flags, "-DMMCL_CUDA"]
        header = f'#pragma once\nstatic const char kBuildInfo[] = R"json({json.dumps(info)})json";\n'
        if not (work / "build_info.h").is_file() or (work / "build_info.h").read_text("utf-8") != header:
            (work / "build_info.h").write_text(header, "utf-8")
        compile_one(ROOT / "csrc" / "module.cpp", "cxx", flags + includes)
        lines += [
            "rule link",
            "  command = $cxx $in -o $out $flags",
            "  description = link $out",
            f"build _C.so: link {' '.join(objects)}",
            f"  flags = {quote_flags(link)}",
            "default _C.so",
            "",
        ]
        (work / "build.ninja").write_bytes(os.fsencode("\n".join(lines)))
        self.ninja(work)
        # Renamed over the old file: running processes have it mapped, and writing into it would crash them.
        shutil.copyfile(work / "_C.so", out.with_suffix(".new"))
        out.with_suffix(".new").replace(out)

    @staticmethod
    def add_cuda(
        nvcc: Path, cxx: list[str], lines: list[str], compile_one, info: dict, includes: list[str]
    ) -> list[str]:
        """Add the CUDA files to build.ninja's lines and the build information; return the linker's flags."""
        general, hopper, archs = architecture_flags(nvcc)
        home = cuda_home(nvcc)
        common = [
            "-std=c++17",
            "-O3",
            "-DMMCL_CUDA",
            "-Xcompiler",
            "-fPIC,-fvisibility=hidden",
            "-cudart",
            "static",
            "-lineinfo",
            "--threads",
            "0",
            *nvcc_host(cxx),
        ]
        lines += [
            f"nvcc = {quote_flags([str(nvcc)])}",
            "rule nvcc",
            "  command = $nvcc -MD -MF $out.d $flags -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = nvcc $out",
        ]
        for source in sorted((ROOT / "csrc" / "cuda").glob("*.cu")):
            codes = hopper if source.stem.endswith("_sm90a") else general
            if codes:
                compile_one(source, "nvcc", common + codes)
        include = (
            f"-I{next((p for p in (home / 'include', home / 'targets/x86_64-linux/include') if p.is_dir()), home)}"
        )
        defines = ["-DMMCL_SM90A"] if hopper else []
        compile_one(ROOT / "csrc" / "cuda" / "bindings.cpp", "cxx", [*CPU_FLAGS, *defines, *includes, include])
        release = re.search(r"release ([\d.]+)", run(nvcc, "--version"))
        info["cuda"] = {"nvcc": release.group(1) if release else "?", "archs": archs, "flags": " ".join(common[:3])}
        libs = next(
            (
                p
                for p in (home / "lib64", home / "targets/x86_64-linux/lib", home / "lib")
                if (p / "libcudart_static.a").is_file()
            ),
            None,
        )
        if libs is None:
            raise SystemExit(
                f"nvcc is at {nvcc} but libcudart_static.a is not under {home}: install the CUDA runtime's "
                "development files, or set MMCL_FAST_CUDA=0"
            )
        return [f"-L{libs}", "-lcudart_static", "-ldl", "-lrt", "-lpthread"]

    def ninja(self, work: Path) -> None:
        """Run ninja in the build folder."""
        try:
            from ninja import BIN_DIR

            tool = str(Path(BIN_DIR) / "ninja")
        except ImportError:
            tool = shutil.which("ninja") or "ninja"
        result = subprocess.run([tool, "-C", str(work)] + (["-v"] if self.verbose > 1 else []))
        if result.returncode:
            raise SystemExit(
                "mmcl-fast: compiling csrc failed (above). Without a working CUDA compiler set "
                "MMCL_FAST_CUDA=0; without OpenMP install libgomp or libomp"
            )


setup(
    packages=[*find_packages(include=["mmcl_fast", "mmcl_fast.*"]), "mmcl_fast.kernels"],
    package_dir={"mmcl_fast.kernels": "kernels"},
    ext_modules=[Extension("mmcl_fast._C", ["csrc/module.cpp"])],
    cmdclass={"build_ext": NinjaBuild},
)
