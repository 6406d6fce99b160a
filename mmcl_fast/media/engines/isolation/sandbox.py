"""What a decoding process gives up before it sees a file, and what one file may take of the machine.

====================  ===========================================  ====================================
what                  Linux                                        other POSIX systems (macOS)
====================  ===========================================  ====================================
files                 Landlock (Linux 5.13): opens nothing but     not forbidden
                      Python's own libraries, for reading
writing, renaming     Landlock; seccomp on x86-64 and arm64        not forbidden
network               seccomp; Landlock 4 (Linux 6.7) for TCP      not forbidden
other processes       seccomp: starts, signals and traces none     not forbidden
memory                RLIMIT_DATA for each file                    not limited
processor time        RLIMIT_CPU for each file                     RLIMIT_CPU for each file
time on the clock     by the parent, which kills                   by the parent, which kills
core dumps            none                                         none
====================  ===========================================  ====================================

Windows has none of this: there, files are decoded in the process that asks.
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
from mmcl_fast.media.engines.isolation.limits import Limits

NO_NEW_PRIVS, DEATH_SIGNAL = 38, 1  # prctl's numbers
OPEN_FILES = 256
SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/etc/ld.so.cache")
MACHINE = ("/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu", "/dev/null", "/dev/urandom", "/dev/zero")
RESERVED = 4_000_000_000  # bytes of addresses, beside memory in use, for threads' stacks and arenas


def libraries() -> list[str]:
    """Files and folders that hold programs and no user's data: what an import or a library may still open."""
    import mmcl_fast

    paths = sysconfig.get_paths()
    own = Path(mmcl_fast.__file__).parent
    found = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    found |= {*site.getsitepackages(), site.getusersitepackages(), str(own), str(own.parent / "kernels")}
    found |= {os.path.join(sys.base_prefix, "lib"), *SYSTEM, *MACHINE}
    return sorted(found | loaded())


def loaded() -> set[str]:
    """Files and folders of the packages that are imported, which PYTHONPATH or a .pth file may have led to."""
    found = set()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if "." in name or not isinstance(file, str) or not os.path.isabs(file):
            continue
        place = Path(file)
        found.add(str(place.parent if place.stem == "__init__" else place))
        if place.stem == "__init__":  # a wheel's own shared libraries lie beside its package
            found |= {str(beside) for beside in place.parent.parent.glob("*.libs")}
    return found


def die_with_parent() -> None:
    """Have the kernel kill this process once the one that started it is gone (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


def enter() -> list[str]:
    """Give up what a decoder needs not; returns what is forbidden here: of ``files``, ``network``, ``processes``."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, few))
    if sys.platform != "linux":
        return []
    ctypes.CDLL(None).prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    try:
        files = landlock.restrict(libraries())
    except OSError:  # a kernel, or a container, that says it has Landlock and refuses it
        files = 0
    calls = seccomp.restrict()
    return ["files"] * bool(files) + ["network", "processes"] * calls


class Meter:
    """Arms the limits of one file after another."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.first = limits, self._peak()

    def limit_memory(self) -> None:
        """Hold what is in use now, and ``max_decode_mb`` more (Linux; others have no such limit)."""
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
            _, most = resource.getrlimit(kind)
            size = size if most == resource.RLIM_INFINITY else min(size, most)
            resource.setrlimit(kind, (size, size))

    def was_near_limit(self) -> bool:
        """Whether half of ``max_decode_mb`` was in use at once, ever."""
        return self._peak() - self.first > self.limits.max_decode_mb * 1e6 / 2

    def _peak(self) -> float:
        """The most bytes that were resident at once."""
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def begin(self) -> None:
        """Give the next file its processor time, counted from now."""
        import resource

        spent = resource.getrusage(resource.RUSAGE_SELF)
        until = math.ceil(spent.ru_utime + spent.ru_stime + self.limits.max_decode_seconds)
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        soft = until if most == resource.RLIM_INFINITY else min(until, most)
        resource.setrlimit(resource.RLIMIT_CPU, (soft, most))
