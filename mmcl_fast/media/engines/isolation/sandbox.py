"""The rights that a worker gives up before it sees a file, and the limits of resources for each file.

| right or resource | Linux | other POSIX systems (macOS) |
|---|---|---|
| files | Landlock (Linux 5.13): opens only Python's own libraries, for reading | not forbidden |
| writing, renaming | Landlock; seccomp on x86-64 and arm64 | not forbidden |
| network | seccomp; Landlock 4 (Linux 6.7) for TCP | not forbidden |
| other processes | seccomp: starts, signals and traces none | not forbidden |
| memory | RLIMIT_DATA for each file | not limited |
| processor time | RLIMIT_CPU for each file | RLIMIT_CPU for each file |
| elapsed time | by the parent, which kills the worker | by the parent, which kills the worker |
| core dumps | none | none |

Windows has none of these. There files are decoded in the calling process.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import site
import sys
import sysconfig
from pathlib import Path

from mmcl_fast.media.engines.isolation import landlock, seccomp
from mmcl_fast.media.engines.isolation.limits import DecodeLimits

NO_NEW_PRIVS, DEATH_SIGNAL = 38, 1  # prctl's numbers
OPEN_FILES = 256
SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/etc/ld.so.cache")
MACHINE = ("/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu", "/dev/null", "/dev/urandom", "/dev/zero")
RESERVED = 4_000_000_000  # bytes of address space for the stacks and arenas of threads, which use no memory


def readable_paths() -> list[str]:
    """Return files and folders with programs but no user's data, which an import or a library may still open."""
    import mmcl_fast

    paths = sysconfig.get_paths()
    package = Path(mmcl_fast.__file__).parent
    found = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    found |= {*site.getsitepackages(), site.getusersitepackages(), str(package), str(package.parent / "kernels")}
    found |= {os.path.join(sys.base_prefix, "lib"), *SYSTEM, *MACHINE}
    return sorted(found | imported_paths())


def imported_paths() -> set[str]:
    """Return files and folders of the imported packages, which PYTHONPATH or a .pth file may have added."""
    found = set()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if "." in name or not isinstance(file, str) or not os.path.isabs(file):
            continue
        place = Path(file)
        found.add(str(place.parent if place.stem == "__init__" else place))
        if place.stem == "__init__":  # the shared libraries of a wheel are beside its package
            found |= {str(folder) for folder in place.parent.parent.glob("*.libs")}
    return found


def die_with_parent() -> None:
    """Have the kernel kill this process once the one that started it is gone (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


def drop_rights() -> list[str]:
    """Give up the rights that no decoder needs.

    Returns:
        The rights that this system could take away: of ``files``, ``network`` and ``processes``.
    """
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if sys.platform != "linux":
        return []
    ctypes.CDLL(None).prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    try:
        files = landlock.restrict(readable_paths())
    except OSError:  # a kernel or container may state that it has Landlock, and refuse it
        files = 0
    calls = seccomp.restrict()
    return ["files"] * bool(files) + ["network", "processes"] * calls


class FileLimits:
    """Sets the limits of memory once, and of processor time for each file."""

    def __init__(self, limits: DecodeLimits) -> None:
        self.limits, self.initial_peak = limits, self._peak_bytes()

    def limit_memory(self) -> None:
        """Limit memory to the amount in use now and ``max_decode_mb`` more. Only Linux has such a limit."""
        import resource

        if sys.platform != "linux":
            return
        used = {}
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in ("VmData", "VmSize"):
                used[name] = 1024 * int(rest.split()[0])
        more = int(self.limits.max_decode_mb * 1e6)
        for kind, size in (
            (resource.RLIMIT_DATA, used["VmData"] + more),
            (resource.RLIMIT_AS, used["VmSize"] + more + RESERVED),
        ):
            _, hard = resource.getrlimit(kind)
            size = size if hard == resource.RLIM_INFINITY else min(size, hard)
            resource.setrlimit(kind, (size, size))

    def was_near_limit(self) -> bool:
        """Return whether the process ever used half of ``max_decode_mb`` or more at once."""
        return self._peak_bytes() - self.initial_peak > self.limits.max_decode_mb * 1e6 / 2

    def _peak_bytes(self) -> float:
        """Return the largest number of bytes that were resident at once."""
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def start_file(self) -> None:
        """Limit the processor time of the next file, counted from now."""
        import resource

        spent = resource.getrusage(resource.RUSAGE_SELF)
        until = math.ceil(spent.ru_utime + spent.ru_stime + self.limits.max_decode_seconds)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        soft = until if hard == resource.RLIM_INFINITY else min(until, hard)
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
