"""Guides and filters on the cores of the host: one image for each thread, and no threads inside of BLAS."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

_lock = threading.Lock()
_num_inside = 0
_limit: threadpool_limits | None = None


def map_on_host(function: Callable[[Any], np.ndarray], args: Iterable[Any]) -> list[np.ndarray]:
    """Calls a function of NumPy for each argument, on all cores.

    Args:
      function: The function.
      args: Its arguments, one for each call.
    """
    with one_thread_of_blas(), ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, args))


@contextlib.contextmanager
def one_thread_of_blas() -> Iterator[None]:
    """Limits BLAS to one thread while any thread is in this context: the reading and the main thread may be.

    The matrices of a filter are small, so threads of BLAS would only wait for each other, and their number changes the
    rounding.
    """
    global _num_inside, _limit
    with _lock:
        if _num_inside == 0:
            _limit = threadpool_limits(1, "blas")
        _num_inside += 1
    try:
        yield
    finally:
        with _lock:
            _num_inside -= 1
            if _num_inside == 0 and _limit is not None:
                _limit.restore_original_limits()
