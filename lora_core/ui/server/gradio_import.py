"""Gradio, imported without what a window does not need of it: telemetry, and writing type stubs beside its source."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
import types
from collections.abc import Sequence
from pathlib import Path

_QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1",
    "GRADIO_SSR_MODE": "False", "GRADIO_MCP_SERVER": "False", "GRADIO_RUN_HISTORY": "False", "GRADIO_SHARE": "False",
}  # fmt: skip


def prepare(uploads: Path) -> None:
    """Set Gradio up; it reads its variables when it is imported. `uploads`: where it keeps what pages send."""
    os.environ.update(_QUIET)
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    if "gradio" not in sys.modules:
        sys.meta_path.insert(0, _NoStubs())


class _NoStubs(importlib.abc.MetaPathFinder):
    """At each import Gradio parses its whole source and writes .pyi files beside it: half of the time that it takes."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "gradio.component_meta":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module: types.ModuleType) -> None:
        super().exec_module(module)
        if hasattr(module, "create_or_modify_pyi"):
            setattr(module, "create_or_modify_pyi", lambda *_: None)  # noqa: B010  mypy knows no such attribute
