"""Work in threads of its own, so that no page waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")


def in_background(work: Callable[[], T], name: str) -> Future[T]:
    """Begin `work` in a thread called `name`; the future holds what it returns or raises.

    A daemon thread, unlike an executor's: the process ends without waiting for it.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  raised again for who asks for the result
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def has_ended(future: Future[T] | None, timeout_s: float | None = 0.0) -> bool:
    """Whether nothing goes on there, after waiting for it at most so long; None: until it ends."""
    return future is None or not wait([future], timeout_s).not_done
