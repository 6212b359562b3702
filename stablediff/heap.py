"""Freed memory stays with the program while it draws, for the next layer to use.

glibc gives large blocks back to the system at once and asks for them anew; their pages then come one by one, each
filled with zeros. Every layer's output is such a block: of SD 1.5's time on a CPU this was a fifth.
"""

import ctypes
import functools
import mmap
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of malloc.h
_NEVER = 2**31 - 1
_MADV_PAGEOUT = 21  # of mman.h; unlike MADV_DONTNEED it forgets nothing that was written
_FREE = 2**27  # bytes that may stay free between pictures, and while one is decoded


def keep_freed_memory() -> bool:
    """From now on, for the whole program: best before it has many threads. -> whether this system has a way to.

    One heap for all threads, too: those of threads hold no block of more than 64 MB.
    """
    libc = _glibc()
    if libc is None:
        return False
    return all([libc.mallopt(_M_ARENA_MAX, 1), libc.mallopt(_M_MMAP_MAX, 0), libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)])


def give_back(least: int = _FREE) -> None:
    """Hands the system what is free, if it is much: of small models it is kept, because the next picture needs it.

    Where much is freed, this has to be called often: an aligned block, as torch wants them, does not fit into the place
    of a freed one, not even of its own size.
    """
    libc = _glibc()
    if libc is not None and libc.mallinfo2().fordblks > least:
        libc.malloc_trim(0)


def leave_in_file(weight: Tensor) -> None:
    """Of a tensor that lies in a mapped file: its pages leave the memory, and would come back if it were asked for.

    What was once read of such a file counts as the program's as long as anything of the file is used.
    """
    libc = _glibc()
    first = -(-weight.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    size = (weight.data_ptr() + weight.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
    if libc is not None and size > 0 and _is_mapped_file(first):
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), _MADV_PAGEOUT)  # before Linux 5.4 it does nothing


def _is_mapped_file(address: int) -> bool:
    with suppress(OSError), Path("/proc/self/maps").open(encoding="utf-8", errors="replace") as maps:
        for line in maps:  # 7f00-7f80 r--p 00000000 fe:01 1234 /its/name
            bounds, _, _, _, inode, *_ = line.split()
            low, _, high = bounds.partition("-")
            if int(low, 16) <= address < int(high, 16):
                return inode != "0"
    return False


class _MallInfo2(ctypes.Structure):
    """Of malloc.h: ten numbers of bytes, of which `fordblks` are free ones."""

    _fields_ = [
        *((f"other_{i}", ctypes.c_size_t) for i in range(8)),
        ("fordblks", ctypes.c_size_t),
        ("keepcost", ctypes.c_size_t),
    ]


@functools.cache
def _glibc() -> Any:
    """None on systems that have another C library, or one before 2.33."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallinfo2.restype = _MallInfo2
    except (OSError, AttributeError):
        return None
    return libc
