"""Folders that look like each webui: the files Treino tells it by, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path


def make(folder: Path, *names: str) -> Path:
    """Create files and, where a name ends in a slash, folders."""
    for name in names:
        path = folder / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_text("", encoding="utf-8")
    return folder


def a1111(folder: Path) -> Path:
    return make(folder, "webui.py", "launch.py", "modules/shared.py", "extensions-builtin/Lora/lora.py", "models/Lora/")


def forge(folder: Path) -> Path:
    return make(
        folder, "webui.py", "modules/shared.py", "modules_forge/main_entry.py", "extensions-builtin/", "models/Lora/"
    )


def sdnext(folder: Path) -> Path:
    return make(folder, "webui.py", "launch.py", "installer.py", "modules/shared.py", "extensions-builtin/", "models/Lora/")


def comfy(folder: Path) -> Path:
    return make(folder, "main.py", "nodes.py", "comfy/sd.py", "models/loras/", "custom_nodes/", "input/")


def comfy_desktop(folder: Path) -> Path:
    return make(folder, "models/loras/", "custom_nodes/", "user/", "input/", "output/")


def fooocus(folder: Path) -> Path:
    return make(folder, "launch.py", "fooocus_version.py", "modules/config.py", "models/loras/")


def swarm(folder: Path) -> Path:
    return make(folder, "SwarmUI.sln", "src/SwarmUI.csproj", "Models/Lora/", "Data/", "dlbackend/")


def invoke(folder: Path) -> Path:
    return make(folder, "invokeai.yaml", "databases/invokeai.db", "models/")


def stability_matrix(folder: Path) -> Path:
    make(folder, "Packages/", "Models/Lora/")
    (folder / "settings.json").write_text("{}", encoding="utf-8")
    return folder


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


BUILDERS = {
    "AUTOMATIC1111": (a1111, "models/Lora"), "Forge": (forge, "models/Lora"), "SD.Next": (sdnext, "models/Lora"),
    "ComfyUI": (comfy, "models/loras"), "Fooocus": (fooocus, "models/loras"), "SwarmUI": (swarm, "Models/Lora"),
    "InvokeAI": (invoke, "autoimport/lora"), "Stability Matrix": (stability_matrix, "Models/Lora"),
}  # fmt: skip
