"""One thread for the search's linear algebra.

Its matrices are small: several threads wait for each other longer than they work, ten times as long on a busy machine.
And the last bits of a product depend on how it was split, so that the same study would go on differently elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it BLAS uses one thread, in the whole process; a tenth of a millisecond."""
    with _libraries().limit(limits=1, user_api="blas"):
        yield


@cache
def _libraries() -> ThreadpoolController:
    """Those that are loaded when the first suggestion is made: finding them takes a few milliseconds."""
    return ThreadpoolController()
