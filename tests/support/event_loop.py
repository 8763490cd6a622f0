"""Where parts of a page are built in a test: in a running loop, as the server does it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def in_a_loop(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns. Without a running loop Gradio makes loops of its own that nobody closes; and it is run in a
    thread, for the tests in a browser keep a loop running in the main one.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
