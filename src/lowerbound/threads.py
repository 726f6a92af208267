"""One BLAS thread for small matrices.

A multi-threaded BLAS wakes its threads for matrices of a few dozen rows and lets them spin; on a model of
ten dimensions that doubled the CPU seconds of a fit and saved no time. XLA has threads of its own, which
this leaves alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import ThreadpoolController

#: Dimensions from which a second thread earns its keep.
LARGE = 200
_lock = threading.Lock()
_users = 0
_limit: Any = None


@contextmanager
def host_threads(dimension: int) -> Iterator[None]:
    """Limit BLAS to one thread inside, for a problem of few dimensions; the former number is put back.

    The setting is the process's, so it is counted: the first user sets it, the last one restores it.
    """
    global _users, _limit
    if dimension >= LARGE:
        yield
        return
    with _lock:
        if _users == 0:
            _limit = ThreadpoolController().limit(limits=1, user_api="blas")
            _limit.__enter__()
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _limit.__exit__(None, None, None)
                _limit = None
