"""Memory that a process no longer uses, given back to the system."""

import ctypes


def release_freed() -> None:
    """Give freed memory back: glibc keeps what lies between blocks in use, gigabytes of it.

    Where the C library is another one nothing happens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
