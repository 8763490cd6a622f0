"""Components are read when they are needed, straight to where they are needed, and their memory goes back after."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_core.errors import UserError
from lora_core.models import load as base_models
from lora_core.models.checkpoint_keys import Place
from lora_core.models.families.base import BaseModel
from lora_core.models.weights import (
    Source,
    free_device_memory,
    is_on_meta,
    load_to,
    offload,
    on_device,
    on_meta,
    open_folder,
    open_weights,
)
from lora_core.training import job, prepare
from tests import ROOT
from tests.stripped import hollow_file, make
from tests.support import header_lengths
from tests.support.single_files import tiny_assets
from tests.support.training import config_for, run


def layer(path: Path, names: str = "weight bias", dtype: torch.dtype = torch.float16) -> torch.nn.Linear:
    def places(name: str) -> list[Place]:
        return [Place(name)] if name in names else []

    return on_meta(lambda: torch.nn.Linear(3, 2), Source(str(path), lambda: open_weights(path), places, dtype))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file({"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([1.0, 2.0])}, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def test_a_component_is_on_meta_until_it_is_loaded_and_after_it_is_offloaded(file: Path) -> None:
    module = layer(file)
    assert is_on_meta(module) and not module.training
    for _ in range(2):
        assert load_to(module, "cpu") is module and module.weight.dtype == torch.float16
        assert module.weight.tolist() == [[0, 1, 2], [3, 4, 5]] and module.bias.tolist() == [1, 2]
        assert not any(p.requires_grad for p in module.parameters())
        offload(module)
        assert is_on_meta(module)


def test_at_hand_leaves_things_as_they_were(file: Path) -> None:
    asleep, awake, plain = layer(file), load_to(layer(file), "cpu"), torch.nn.Linear(3, 2)
    weight = plain.weight.clone()
    with pytest.raises(ZeroDivisionError), on_device([asleep, awake, plain], "cpu"):
        assert not any(map(is_on_meta, (asleep, awake, plain)))
        raise ZeroDivisionError
    assert is_on_meta(asleep) and not is_on_meta(awake) and torch.equal(plain.weight, weight)
    offload(plain)
    assert torch.equal(plain.weight, weight), "what cannot be read again is kept"


def test_what_is_missing_is_told_before_anything_is_read_and_what_went_missing_after(file: Path) -> None:
    with pytest.raises(ValueError, match=r"^bias is not in the file"):
        layer(file, names="weight")
    with pytest.raises(ValueError, match=r"^weight and 1 more weights are not in the file"):
        layer(file, names="")
    module = layer(file)
    file.unlink()
    with pytest.raises(UserError, match="There is no file"):
        load_to(module, "cpu")


def test_a_component_in_several_files(tmp_path: Path, tiny_sd1: Path) -> None:
    whole = load_file(tiny_sd1 / "unet" / "diffusion_pytorch_model.safetensors")
    parts = [dict(list(whole.items())[n::2]) for n in range(2)]
    names = [f"diffusion_pytorch_model.fp16-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for name, part in zip(names, parts, strict=True):
        save_file(part, tmp_path / name)
    table = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.fp16.json"
    index.write_text(json.dumps({"weight_map": table}), encoding="utf-8")
    opened = open_folder(tmp_path, "diffusion_pytorch_model", "fp16")
    assert set(opened.header.tensors) == set(whole)
    assert all(torch.equal(opened.read(key), tensor) for key, tensor in whole.items())
    opened.close()
    index.write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match="does not list the files"):
        open_folder(tmp_path, "diffusion_pytorch_model", "fp16")


@pytest.mark.parametrize("name", ["../secret.safetensors", "{outside}", "a/../../secret.safetensors", 5, None, "..", ""])
def test_a_list_of_files_leads_nowhere_else(name: object, tmp_path: Path, file: Path) -> None:
    """A model from anywhere may list what it likes."""
    outside, folder = tmp_path / "secret.safetensors", tmp_path / "unet"
    file.rename(outside)
    (folder / "a").mkdir(parents=True)
    listed = str(outside) if name == "{outside}" else name
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"weight": listed, "bias": "a.safetensors"}}), encoding="utf-8")
    with pytest.raises(UserError, match="does not list the files"):
        open_folder(folder, "diffusion_pytorch_model", None)


LEAN = """
import json, sys
from pathlib import Path
import torch
from lora_core.models import identify, load, single_file
from lora_core.models.weights import on_device, load_to
single_file.ASSETS, identify.LAYERS = Path(sys.argv[1]), {}

def kilobytes(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))

model = load.open_on_meta(sys.argv[2], getattr(torch, sys.argv[3]), print)
before = kilobytes("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # begins the peak anew
for part in (model.vae, *model.text_encoders.values()):
    with on_device([part], "cpu"):
        pass
load_to(model.unet, "cpu")
size = sum(p.numel() * p.element_size() for p in model.unet.parameters())
print(json.dumps([(kilobytes("VmHWM") - before) * 1024, size]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_loading_takes_little_more_than_the_largest_component(dtype: str, tmp_path: Path) -> None:
    """As `prepare` does it: VAE, then text encoders, then the UNet, which is the largest."""
    assets = tiny_assets(tmp_path / "assets")
    config = assets / "sd1" / "unet" / "config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**values, "block_out_channels": [96, 192, 384, 384]}), encoding="utf-8")
    found = {name: make.tensor(name, shape, "F16") for name, shape in make.base("sd1", assets).items()}
    path = hollow_file(tmp_path / "model.safetensors", found)
    told = subprocess.run(
        [sys.executable, "-c", LEAN, str(assets), str(path), dtype], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "MALLOC_ARENA_MAX": "1"}, timeout=500,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    peak, largest = json.loads(told.stdout.splitlines()[-1])
    assert largest > 100e6 and peak <= 1.2 * largest, f"{peak / 1e6:.0f} MB for a component of {largest / 1e6:.0f} MB"


def test_ten_trainings_in_a_row_leave_nothing_behind(
    tiny_sd1: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[weakref.ref[BaseModel]] = []
    plain = base_models.open_on_meta

    def remember(*arguments: object) -> BaseModel:
        model = plain(*arguments)  # type: ignore[arg-type]
        opened.append(weakref.ref(model))
        return model

    monkeypatch.setattr(prepare.base_models, "open_on_meta", remember)
    numbers = []  # of all tensors alive, which is what memory is made of
    kept, resident = [], []
    for number in range(10):
        values = {"max_train_steps": 1, "save_steps": 1, "train_text_encoder": number % 2 == 1, "validation_split": 0.0}
        if number == 4:  # one of them fails while it holds everything
            monkeypatch.setattr(job, "train", fail)
        kept.append(
            run(config_for(tiny_sd1, pictures, tmp_path / f"run {number}", sample_count=int(number in (1, 2)), **values))[0]
        )
        assert kept[-1].state == ("failed" if number == 4 else "finished"), kept[-1].error
        if number == 4:
            monkeypatch.undo()
            monkeypatch.setattr(prepare.base_models, "open_on_meta", remember)
        gc.collect()
        numbers.append(sum(thing.numel() for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)))
        resident.append(psutil.Process().memory_info().rss)
    assert len(opened) == 10 and not any(reference() for reference in opened), "a base model is still held"
    assert max(numbers[1:]) <= numbers[0] * 1.1 + 10_000, numbers
    assert resident[-1] - resident[3] < 50e6, resident
    assert isinstance(kept[4].error, RuntimeError) and str(kept[4].error) == "on purpose"


def fail(session: object, callbacks: object) -> None:
    try:
        raise ValueError("first")
    except ValueError as cause:
        raise RuntimeError("on purpose") from cause


def test_device_memory_is_given_back_where_there_is_a_device() -> None:
    free_device_memory()
    assert not torch.cuda.is_available() or torch.cuda.memory_reserved() == torch.cuda.memory_allocated()


def test_a_card_that_is_lost_has_no_memory_to_give_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    monkeypatch.setattr(torch.xpu, "empty_cache", gone)
    free_device_memory()


def test_weights_are_read_behind_a_header_of_any_length() -> None:
    for length, path in header_lengths.headers():
        if length >= header_lengths.SHORTEST:
            weights = open_weights(path)
            assert weights.read("a").tolist() == [1.0], length
            weights.close()
