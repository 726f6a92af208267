"""One BLAS thread.

A multi-threaded BLAS wakes its threads for every small product and lets them spin between them. With two of them
fits of 10 to 2,000 dimensions took up to three times the CPU seconds, and 0 to 70 per cent longer, than with one. XLA
has threads of its own, which this leaves alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import ThreadpoolController

_lock = threading.Lock()
_users = 0
_limit: Any = None


@contextmanager
def host_threads() -> Iterator[None]:
    """Limit BLAS to one thread inside; the former number is put back.

    The setting is the process's, so it is counted: the first user sets it, the last one restores it.
    """
    global _users, _limit
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
