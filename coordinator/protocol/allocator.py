"""Keeps freed memory in the process, because both ends handle bodies of megabytes.

glibc gives a block of megabytes back to the system when it is freed and asks for a new
one at the next allocation. The system then clears and maps it page by page, which costs
several times what copying a body costs. Nothing else about the program changes.

Source: mallopt(3).
"""

import ctypes
import sys
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_LARGEST_KEPT: Final = 32 << 20  # bytes: what older versions of glibc take at most
_MOST_KEPT: Final = 1 << 30  # bytes


def keep_freed_memory() -> bool:
    """Let glibc reuse large freed blocks. Call it before threads start.

    Returns:
        Whether the C library took the settings: False where it is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # One arena: what one thread frees, the next may use.
    settings = {
        _M_ARENA_MAX: 1,
        _M_MMAP_THRESHOLD: _LARGEST_KEPT,
        _M_TRIM_THRESHOLD: _MOST_KEPT,
    }
    taken = [mallopt(option, value) == 1 for option, value in settings.items()]
    return all(taken)
