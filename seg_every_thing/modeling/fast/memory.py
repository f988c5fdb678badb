"""Memory that a process frees and needs again for the next layer, and for the next image."""

import ctypes

# Parameters of mallopt(3) in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep the large blocks that it frees, until it ends.

    By default glibc hands each block over 32 MB back to the system at once, and the next layer of a
    network waits for the system to clear as much again, page by page: where pages are dear, as on
    virtual machines, longer than it computes.  The process's size then stays what it was at most.

    Returns:
        Whether it could be done: in glibc alone, so on most Linux systems.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
