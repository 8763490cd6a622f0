"""torch's compiler is imported when it is used: libraries ask for it at their import, for the sake of a few decorators.

`torch._dynamo` brings a thousand modules, a quarter of the time before the first step. Until somebody wants more of it
than those decorators, its place is held by a module that has only them; then the same module becomes the real one, and
what was decorated before is decorated as it would have been.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import sys
import threading
from collections.abc import Sequence
from types import FunctionType, ModuleType
from typing import Any

NAME = "torch._dynamo"
_ALONE = f"{NAME}._trace_wrapped_higher_order_op"  # transformers takes a class from it, and it needs nothing of the rest
_MARK = "__dynamo_disable"  # under which torch keeps what `disable` gave (torch/_compile.py)


class Waiting(ModuleType):
    """The compiler before it is used. Any other name than those below makes it the real one."""

    def __init__(self, spec: importlib.machinery.ModuleSpec, loader: importlib.abc.Loader):
        super().__init__(spec.name)
        self.__dict__.update(_loader=loader, _lock=threading.RLock(), _noted=[], _plain=[], _wrapped=[])
        self.__dict__["eval_frame"] = _Frames(self)

    def allow_in_graph(self, function: Any) -> Any:
        """Only says something about functions that are compiled, and nothing is."""
        self.__dict__["_noted"].append(("allow_in_graph", function))
        return function

    def assume_constant_result(self, function: Any) -> Any:
        """The same."""
        self.__dict__["_noted"].append(("assume_constant_result", function))
        return function

    def graph_break(self, msg: str = "") -> None:
        """Where a compiled function would be parted; optimizers call it at every step."""

    def disable(self, function: Any = None, recursive: bool = True, **options: Any) -> Any:
        """Only keeps functions from being compiled, and nothing is."""
        if function is None:
            return functools.partial(self.disable, recursive=recursive, **options)
        if options.get("wrapping") is False:  # torch's own, which remembers beside the function what it is given
            self.__dict__["_plain"].append(function)
            return function
        if not isinstance(function, FunctionType):
            become_real(self)
            return self.disable(function, recursive, **options)
        chosen = [function]

        @functools.wraps(function)
        def called(*args: Any, **values: Any) -> Any:
            return chosen[0](*args, **values)

        self.__dict__["_wrapped"].append((chosen, recursive, options))
        return called

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system looks for, and inspection of all modules
            raise AttributeError(f"module {NAME!r} has no attribute {name!r}")
        become_real(self)
        return getattr(self, name)


class _Frames:
    """Pipelines ask whether a module is a compiled one, for which they take a class from here."""

    class OptimizedModule:
        """There are none yet."""

    def __init__(self, waiting: Waiting):
        self._waiting = waiting

    def __getattr__(self, name: str) -> Any:
        become_real(self._waiting)
        return getattr(self._waiting.__dict__["eval_frame"], name)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the compiler, and gives the waiting module in its place."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name == NAME:
            spec = importlib.machinery.PathFinder.find_spec(name, path)
            if spec and spec.loader:
                spec.loader = _Loader(spec.loader)
            return spec
        if name.startswith(f"{NAME}.") and name != _ALONE:
            waiting = sys.modules.get(NAME)
            if isinstance(waiting, Waiting):  # its parts rely on the whole
                become_real(waiting)
                if name in sys.modules:
                    return importlib.machinery.ModuleSpec(name, _Ready(sys.modules[name]))
        return None


class _Loader(importlib.abc.Loader):
    def __init__(self, real: importlib.abc.Loader):
        self.real = real

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return Waiting(spec, self.real)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing yet."""


class _Ready(importlib.abc.Loader):
    """For a module that was imported while it was looked for."""

    def __init__(self, module: ModuleType):
        self.module = module

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """It has been executed."""


def become_real(waiting: ModuleType) -> None:
    """Execute the compiler's module where it waits, and tell it what it missed."""
    held = waiting.__dict__
    with held["_lock"]:
        if not isinstance(waiting, Waiting):  # another thread was quicker
            return
        waiting.__class__ = ModuleType  # type: ignore[assignment]  # from here on names are looked up as in any module
        held["__spec__"].loader = held["__loader__"] = held["_loader"]
        del held["eval_frame"]
        held["_loader"].exec_module(waiting)
        for decorator, function in held["_noted"]:
            held[decorator](function)
        for chosen, recursive, options in held["_wrapped"]:
            chosen[0] = held["disable"](chosen[0], recursive, **options)
        for function in held["_plain"]:
            getattr(function, "__dict__", {}).pop(_MARK, None)


def install() -> None:
    """Let the compiler wait, unless it has been imported already. Costs nothing and imports nothing."""
    if NAME not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
