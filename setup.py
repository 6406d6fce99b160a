"""Compiles csrc/ into mmcl_fast._C with ninja, without torch; CUDA too where nvcc is.

MMCL_FAST_CUDA=0 forbids CUDA, =1 requires it. MMCL_FAST_CUDA_ARCHS="80;90a" replaces the list of
architectures.
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
# no -ffast-math: NaN must come through, and fast_exp rounds by adding and subtracting; omp simd frees the
# sums
ROW_FLAGS = ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
ISAS = {
    "generic": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mprefer-vector-width=512"],
}


def run(*command: object) -> str:
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout


def find_nvcc() -> Path | None:
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        if home and (Path(home) / "bin" / "nvcc").is_file():
            return Path(home) / "bin" / "nvcc"
    found = shutil.which("nvcc")
    return Path(found) if found else None


def cuda_home(nvcc: Path) -> Path:
    """nvcc may be a link or a wrapper on PATH: it says itself where its toolkit is."""
    printed = subprocess.run([str(nvcc), "--dryrun", "-x", "cu", "-E", os.devnull], capture_output=True, text=True)
    top = re.search(r"TOP=(\S+)", printed.stderr)
    return Path(top.group(1)).resolve() if top else nvcc.resolve().parent.parent


def wants_cuda() -> Path | None:
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


def gencodes(nvcc: Path) -> tuple[list[str], list[str], list[str]]:
    """Flags for general kernels, flags for Hopper-only ones (files named *_sm90a.cu), and the
    architectures."""
    asked = [a for a in re.split(r"[;, ]+", os.environ.get("MMCL_FAST_CUDA_ARCHS", "")) if a]
    known = {c.removeprefix("sm_") for c in run(nvcc, "--list-gpu-code").split()}
    archs = [a for a in asked or ARCHS if a.rstrip("af") in known]
    if missing := [a for a in asked if a not in archs]:
        raise SystemExit(
            f"MMCL_FAST_CUDA_ARCHS: this nvcc does not know {', '.join(missing)}; it knows {', '.join(sorted(known))}"
        )
    flags = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in archs]
    plain = sorted({a for a in archs if a.isdigit()}, key=int)
    ptx = sorted(
        {*plain[:1], *plain[-1:]}, key=int
    )  # of the oldest for what lies between, of the newest for what follows
    flags += [f"-gencode=arch=compute_{a},code=compute_{a}" for a in ptx]
    hopper = ["-gencode=arch=compute_90a,code=sm_90a"] if "90a" in archs else []
    return flags, hopper, archs + [f"{a}+PTX" for a in ptx]


def nvcc_host(cxx: list[str]) -> list[str]:
    """The C++ compiler for nvcc, which takes a program and no words before or after it."""
    programs = [
        word for word in cxx if not word.startswith("-") and Path(word).name not in ("ccache", "sccache", "distcc")
    ]
    return [f"-ccbin={shutil.which(programs[0]) or programs[0]}"] if programs else []


def words(flags: list[str]) -> str:
    """Flags as ninja's file has them: ninja gives its commands to a shell, which would split a path at a space."""
    return " ".join(shlex.quote(flag) for flag in flags).replace("$", "$$")


def escape(path: object) -> str:
    """A path on a build line of ninja's file; ninja quotes it for the shell itself."""
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


class NinjaBuild(build_ext):
    """One extension, written out as build.ninja so that files and architectures compile in parallel."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        out = Path(self.get_ext_fullpath(ext.name)).resolve()
        out.parent.mkdir(parents=True, exist_ok=True)
        tag = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        writable = os.access(ROOT, os.W_OK)
        work = ROOT / "build" / f"ninja-{tag}" if writable else Path(self.build_temp).resolve()
        work.mkdir(parents=True, exist_ok=True)
        # CXX may hold words, such as "ccache g++"; what is found on PATH is one word, with a space perhaps.
        found = shutil.which("c++") or shutil.which("g++") or "c++"
        cxx = shlex.split(os.environ.get("CXX") or shlex.quote(found))
        nvcc = wants_cuda()
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        flags = CPU_FLAGS + (["-DMMCL_X86"] if x86 else [])
        lines = [
            f"cxx = {words(cxx)}",
            "rule cxx",
            "  command = $cxx -MMD -MF $out.d $flags -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = c++ $out",
        ]
        objects: list[str] = []

        def compile_one(source: Path, rule: str, extra: list[str], suffix: str = "") -> None:
            name = f"{source.parent.name}_{source.stem}{suffix}.o"
            # Relative: nvcc does not take every letter that a folder's name may have.
            lines.extend([f"build {name}: {rule} {escape(os.path.relpath(source, work))}", f"  flags = {words(extra)}"])
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
            f"  flags = {words(link)}",
            "default _C.so",
            "",
        ]
        (work / "build.ninja").write_bytes(os.fsencode("\n".join(lines)))
        self.ninja(work)
        # Replaced as a whole: running processes have the old file mapped, and writing into it would crash them.
        shutil.copyfile(work / "_C.so", out.with_suffix(".new"))
        out.with_suffix(".new").replace(out)

    @staticmethod
    def add_cuda(
        nvcc: Path, cxx: list[str], lines: list[str], compile_one, info: dict, includes: list[str]
    ) -> list[str]:
        general, hopper, archs = gencodes(nvcc)
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
            f"nvcc = {words([str(nvcc)])}",
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
