"""seccomp: a Linux process gives up the system calls that no decoder needs."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

# Numbers on (x86-64, arm64) of system calls that are answered with EPERM; -1 where a processor has no such call.
DENIED: dict[str, tuple[int, int]] = {
    "socket": (41, 198),
    "connect": (42, 203),
    "accept": (43, 202),
    "bind": (49, 200),
    "listen": (50, 201),
    "socketpair": (53, 199),
    "accept4": (288, 242),
    "sendmmsg": (307, 269),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_by_handle_at": (304, 265),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "unlinkat": (263, 35),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "mkdirat": (258, 34),
    "linkat": (265, 37),
    "symlinkat": (266, 36),
    "mknodat": (259, 33),
    "truncate": (76, 45),
    "ftruncate": (77, 46),
    "fallocate": (285, 47),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    "personality": (135, 92),
    "setpriority": (141, 140),
    "setuid": (105, 146),
    "setgid": (106, 144),
    "setresuid": (117, 147),
    "setresgid": (119, 149),
    "setgroups": (116, 159),
    "quotactl": (179, 60),
    # Older calls for the same things, which arm64 never had:
    **{
        name: (number, -1)
        for name, number in {
            "fork": 57,
            "vfork": 58,
            "rename": 82,
            "mkdir": 83,
            "rmdir": 84,
            "creat": 85,
            "link": 86,
            "unlink": 87,
            "symlink": 88,
            "chmod": 90,
            "chown": 92,
            "lchown": 94,
            "utime": 132,
            "mknod": 133,
            "utimes": 235,
            "futimesat": 261,
            "inotify_init": 253,
        }.items()
    },
}
FIRST_UNKNOWN = 463  # calls newer than this table are answered as by a kernel without them
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
THREAD = 0x10000  # CLONE_THREAD: start a thread, not a process

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

# (number of the architecture, column of DENIED, numbers of kill, tgkill, prlimit64, clone, clone3, open, openat,
# openat2)
PROCESSORS = {
    "x86_64": (0xC000003E, 0, 62, 234, 302, 56, 435, 2, 257, 437),
    "aarch64": (0xC00000B7, 1, 129, 131, 261, 220, 435, -1, 56, 437),
}


def available() -> bool:
    """Return whether this module knows the system and the processor."""
    return sys.platform == "linux" and platform.machine() in PROCESSORS


def make_filter(process: int, machine: str) -> bytes:
    """Return the BPF program that filters the system calls of a process.

    Args:
        process: its number; it may signal itself only.
        machine: its processor, a key of ``PROCESSORS``.
    """
    mark, column, kill, tgkill, prlimit, clone, clone3, open_, openat, openat2 = PROCESSORS[machine]
    lines = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, mark),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, 0, 1, FIRST_UNKNOWN),
        (RETURN, 0, 0, REFUSE | errno.ENOSYS),
    ]
    for number in (clone3, openat2):  # a filter cannot see their arguments; callers fall back to older calls
        lines += [(EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE | errno.ENOSYS)]
    for numbers in DENIED.values():
        number = numbers[column]
        if number >= 0:
            lines += [(EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE | errno.EPERM)]
    # (number of the call, argument, test, value, whether to allow the call if the test holds)
    for number, argument, test, value, allow_if_true in (
        (kill, 0, EQUAL, process, True),
        (tgkill, 0, EQUAL, process, True),
        (prlimit, 0, EQUAL, 0, True),
        (clone, 0, ANY_BIT, THREAD, True),
        (open_, 1, ANY_BIT, WRITING, False),
        (openat, 2, ANY_BIT, WRITING, False),
    ):
        if number >= 0:
            first, second = (ALLOW, REFUSE | errno.EPERM) if allow_if_true else (REFUSE | errno.EPERM, ALLOW)
            lines += [
                (EQUAL, 0, 4, number),
                (LOAD, 0, 0, ARGUMENTS + 8 * argument),
                (test, 0, 1, value),
                (RETURN, 0, 0, first),
                (RETURN, 0, 0, second),
            ]
    lines.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("HBBI", *line) for line in lines)


class _FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("lines", ctypes.c_char_p)]


def restrict() -> bool:
    """Forbid this thread, and the threads that it starts, the calls that ``make_filter`` refuses.

    The process must have given up new privileges before (``PR_SET_NO_NEW_PRIVS``).

    Returns:
        Whether the filter is in force.
    """
    if not available():
        return False
    lines = make_filter(os.getpid(), platform.machine())
    wanted = _FilterProgram(len(lines) // 8, lines)
    return ctypes.CDLL(None, use_errno=True).prctl(22, 2, ctypes.byref(wanted), 0, 0) == 0
