"""Whole models from one file: the same numbers as the libraries' own conversion gives, without any network."""

from __future__ import annotations

import functools
import pickle
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils as theirs
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from safetensors import safe_open
from torch import Tensor

from lora_core.errors import UserError
from lora_core.events import Event, Finished, Warned
from lora_core.models import checkpoint_keys, identify, single_file
from lora_core.models import load as base_models
from lora_core.models.families import components as parts
from lora_core.models.families.base import BaseModel
from lora_core.models.identify import settings_in
from lora_core.models.weights import Source, load_to
from lora_core.sampling import samplers
from tests import stripped
from tests.support.single_files import FAMILIES, tiny_assets, tiny_checkpoint, use, write
from tests.support.training import config_for, run


def load(path: Path, dtype: torch.dtype, vae: str = "") -> BaseModel:
    return base_models.load(str(path), dtype, lambda event: None, vae)


def open_file(path: Path, vae: str = "") -> BaseModel:
    return base_models.open_on_meta(str(path), torch.float32, lambda event: None, vae)


UNET, VAE = "model.diffusion_model.", "first_stage_model."


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_assets(tmp_path_factory.mktemp("assets") / "assets")


@pytest.fixture(autouse=True)
def tiny_and_offline(monkeypatch: pytest.MonkeyPatch, assets: Path) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    use(monkeypatch, assets)


@pytest.fixture(scope="module")
def sd1(assets: Path) -> dict[str, Tensor]:
    return tiny_checkpoint("sd1", assets)


def converted(family: str, tensors: dict[str, Tensor], assets: Path) -> dict[str, dict[str, Tensor]]:
    """The components as diffusers converts them."""
    unet = theirs.convert_ldm_unet_checkpoint(tensors, settings_in(assets / family / "unet" / "config.json"))
    found = {
        "unet": unet,
        "vae": theirs.convert_ldm_vae_checkpoint(tensors, settings_in(assets / family / "vae/config.json")),
    }
    if family == "sd1":
        return {**found, "text_encoder": theirs.convert_ldm_clip_checkpoint(tensors)}
    folder = "text_encoder_2" if family == "sdxl" else "text_encoder"

    class Like:
        config = type("Config", (), settings_in(assets / family / folder / "config.json"))

    prefix = "conditioner.embedders.1.model." if family == "sdxl" else "cond_stage_model.model."
    large = theirs.convert_open_clip_checkpoint(Like, tensors, prefix)
    if family == "sd2":
        return {**found, "text_encoder": large}
    return {**found, "text_encoder": theirs.convert_ldm_clip_checkpoint(tensors), "text_encoder_2": large}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_is_where_the_libraries_put_it(family: str, assets: Path, tmp_path: Path) -> None:
    tensors = tiny_checkpoint(family, assets)
    path = write(tmp_path / "modèle.safetensors", tensors)
    model = load(path, torch.float16)
    assert model.family.name == family and model.scheduler.config.prediction_type == "epsilon"
    components = {"unet": model.unet, "vae": model.vae, **model.text_encoders}
    for name, right in converted(family, tensors, assets).items():
        right = {key.removeprefix("text_model."): tensor for key, tensor in right.items()}
        ours = {key.removeprefix("text_model."): tensor for key, tensor in components[name].state_dict().items()}
        assert ours and not set(ours) - set(right)
        for key, tensor in ours.items():
            assert torch.equal(tensor, right[key].reshape(tensor.shape).to(tensor.dtype)), f"{name} {key}"
    for name, module in components.items():
        assert {p.dtype for p in module.parameters()} == {torch.float32 if name == "vae" else torch.float16}
        assert not module.training and not any(p.requires_grad or p.is_meta for p in module.parameters())
        assert not any(buffer.is_meta for buffer in module.buffers())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shipped_settings_fit_the_full_size_models(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and shapes of every weight of the real models are found, with nothing but headers."""
    monkeypatch.undo()
    header = stripped.header(family)
    tensors = {name: torch.empty(about.shape, device="meta") for name, about in header.tensors.items()}

    class FileOnMeta:
        def __init__(self) -> None:
            self.header = header

        def read(self, name: str) -> Tensor:
            return tensors[name]

        def close(self) -> None:
            pass

    folder, read = single_file.ASSETS / family, FileOnMeta
    place = identify.unet_in(header.tensors)
    assert place and place.width == {"sd1": 768, "sd2": 1024, "sdxl": 2048}[family]
    places = functools.partial(checkpoint_keys.of_unet, unet=place)
    unet = parts.unet(folder / "unet", Source("", read, places, torch.float16))
    parts.vae(folder / "vae", "", read, torch.float32)
    for encoder in folder.glob("text_encoder*"):
        parts.text_encoder(single_file.TEXT_CLASSES[encoder.name], encoder, "", read, torch.float16)
    right = theirs.convert_ldm_unet_checkpoint(tensors, settings_in(folder / "unet" / "config.json"))
    assert {key: tensor.shape for key, tensor in right.items()} == {k: t.shape for k, t in unet.state_dict().items()}


def test_the_text_encoder_reads_as_the_library_s_own(sd1: dict[str, Tensor], assets: Path, tmp_path: Path) -> None:
    """transformers 5 names its weights without "text_model."; what it then loads must not be random."""
    model = load(write(tmp_path / "model.safetensors", sd1), torch.float32)
    model.text_encoders["text_encoder"].save_pretrained(tmp_path / "saved")
    again = type(model.text_encoders["text_encoder"]).from_pretrained(tmp_path / "saved")
    tokens = model.family.tokenize(model, ["a photo of a cat"])
    states = model.family.encode_text(model, tokens)["encoder_hidden_states"]
    assert torch.equal(states, again(tokens["tokenizer"])[0])


def test_the_tokenizer_gives_the_known_numbers() -> None:
    first, second = (single_file.tokenizer(single_file.ASSETS / "sdxl" / name) for name in ("tokenizer", "tokenizer_2"))
    assert len(first) == 49408
    for tokenizer in (first, second):
        assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
        # By OpenCLIP's own tokenizer.
        assert tokenizer("A Photo of CAFÉ, don't! 東京").input_ids[1:-1] == [
            320, 1125, 539, 15304, 267, 847, 713, 256, 48338, 21078, 361
        ]  # fmt: skip
    padded = {t: t("a", padding="max_length", max_length=5).input_ids[-2:] for t in (first, second)}
    assert padded[first] == [49407, 49407] and padded[second] == [0, 0]


def test_a_checkpoint_in_pickle_loads_without_running_anything(sd1: dict[str, Tensor], tmp_path: Path) -> None:
    whole = load(write(tmp_path / "model.safetensors", sd1), torch.float32)
    for name, zipped in (("new.ckpt", True), ("old.ckpt", False)):
        path = tmp_path / name
        # Lightning's files mention a class among the callbacks.
        kind = type("ModelCheckpoint", (), {"__module__": "pytorch_lightning.callbacks.model_checkpoint"})
        content = {"state_dict": sd1, "epoch": 3, "callbacks": {kind: {"best": torch.tensor(1.0)}}}
        with _module("pytorch_lightning.callbacks.model_checkpoint", ModelCheckpoint=kind):
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
        unet = load_to(open_file(path).unet, "cpu").state_dict()
        for key, tensor in whole.unet.state_dict().items():
            assert torch.equal(tensor, unet[key])
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes((tmp_path / "new.ckpt").read_bytes()[:-5000])
    with pytest.raises(UserError, match="truncated"):
        single_file.check(cut)


class _module:
    """A module that is only there while the block writes a pickle that names it."""

    def __init__(self, name: str, **content: object):
        self.name, self.content = name, content

    def __enter__(self) -> None:
        import sys
        import types

        parts = self.name.split(".")
        self.names = [".".join(parts[: n + 1]) for n in range(len(parts))]
        for name in self.names:
            sys.modules[name] = types.ModuleType(name)
        sys.modules[self.name].__dict__.update(self.content)

    def __exit__(self, *error: object) -> None:
        import sys

        for name in self.names:
            del sys.modules[name]


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_with_code_is_refused_and_not_run(
    zipped: bool, sd1: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": sd1, "x": Evil()}, tmp_path / "evil.ckpt", _use_new_zipfile_serialization=zipped)
    for act in (single_file.check, lambda path: load(path, torch.float32)):
        with pytest.raises(UserError, match=r"holds code .*safetensors"):
            act(tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_of_something_else_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "list.ckpt").write_bytes(pickle.dumps([1, 2, 3]))
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "text.ckpt").write_text("hello", encoding="utf-8")
    for name in ("list.ckpt", "list.pt", "text.ckpt"):
        with pytest.raises(UserError, match=r"damaged|no model|no torch checkpoint"):
            single_file.check(tmp_path / name)


def test_what_is_missing_is_told_with_the_way_out(sd1: dict[str, Tensor], assets: Path, tmp_path: Path) -> None:
    bare = write(tmp_path / "bare.safetensors", {n: t for n, t in sd1.items() if not n.startswith(VAE)})
    with pytest.raises(UserError, match=r"has no VAE.*--vae"):
        single_file.check(bare)
    unet = write(tmp_path / "unet.safetensors", {n: t for n, t in sd1.items() if n.startswith(UNET)})
    with pytest.raises(UserError, match=r"without vae and text_encoder: take the whole checkpoint"):
        single_file.check(unet)
    with pytest.raises(UserError, match=r"without text_encoder"):
        single_file.check(unet, vae="some.safetensors")
    torn = {n: t for n, t in sd1.items() if "middle_block.0" not in n}
    with pytest.raises(UserError, match=r"mid_block.resnets.0.* and \d+ more weights are not in the file"):
        open_file(write(tmp_path / "torn.safetensors", torn))
    odd = {**sd1, f"{UNET}out.2.weight": torch.zeros(4, 8, 3, 3, dtype=torch.float16)}
    with pytest.raises(UserError, match=r"conv_out.weight is \[4, 8, 3, 3\] in the file and not"):
        open_file(write(tmp_path / "odd.safetensors", odd))


def test_an_external_vae_from_a_file_a_checkpoint_and_a_folder(
    sd1: dict[str, Tensor], assets: Path, tmp_path: Path
) -> None:
    bare = write(tmp_path / "bare.safetensors", {n: t for n, t in sd1.items() if not n.startswith(VAE)})
    inside = open_file(whole := write(tmp_path / "whole.safetensors", sd1))
    load_to(inside.vae, "cpu")
    alone = {n.removeprefix(VAE): t for n, t in sd1.items() if n.startswith(VAE)}
    inside.vae.save_pretrained(tmp_path / "folder" / "vae")
    torch.save({"state_dict": {**alone, "loss.logvar": torch.zeros(1)}}, tmp_path / "a.vae.pt")
    plain = write(tmp_path / "vae.safetensors", alone)
    named = tmp_path / "folder" / "vae" / "diffusion_pytorch_model.safetensors"
    for place in (plain, whole, named, tmp_path / "a.vae.pt", tmp_path / "folder", tmp_path / "folder" / "vae"):
        vae = load_to(open_file(bare, vae=str(place)).vae, "cpu")
        assert vae.dtype == torch.float32
        for key, tensor in inside.vae.state_dict().items():
            assert torch.equal(tensor, vae.state_dict()[key]), f"{place} {key}"
    with pytest.raises(UserError, match="gives no VAE"):
        open_file(bare, vae=str(bare))
    other = shutil.copytree(tmp_path / "folder", tmp_path / "other")
    config = other / "vae" / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace("0.18215", "0.13025"), encoding="utf-8")
    with pytest.raises(UserError, match="for another family"):
        open_file(bare, vae=str(other))


def test_averaged_weights_are_used_only_where_there_are_no_others(sd1: dict[str, Tensor], tmp_path: Path) -> None:
    averaged = {f"model_ema.diffusion_model{n[len(UNET) :].replace('.', '')}": t + 1 for n, t in sd1.items() if UNET in n}
    both = load_to(open_file(write(tmp_path / "both.safetensors", {**sd1, **averaged})).unet, "cpu").state_dict()
    plain = load_to(open_file(write(tmp_path / "plain.safetensors", sd1)).unet, "cpu").state_dict()
    rest = {n: t for n, t in sd1.items() if not n.startswith(UNET)}
    only = load_to(open_file(write(tmp_path / "only.safetensors", {**rest, **averaged})).unet, "cpu").state_dict()
    for key, tensor in plain.items():
        assert torch.equal(tensor, both[key])
        assert torch.equal((tensor.half() + 1).float(), only[key])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float32], ids=str)
def test_other_number_formats(dtype: torch.dtype, assets: Path, sd1: dict[str, Tensor], tmp_path: Path) -> None:
    tensors = {n: t.to(dtype) if t.is_floating_point() else t for n, t in sd1.items()}
    weight = load_to(open_file(write(tmp_path / "model.safetensors", tensors)).unet, "cpu").conv_in.weight
    assert torch.equal(weight, tensors[f"{UNET}input_blocks.0.0.weight"].float())


def test_v_prediction_by_mark_by_metadata_by_yaml_and_by_rule_of_thumb(assets: Path, tmp_path: Path) -> None:
    def kind(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> tuple[str, bool]:
        scheduler = open_file(write(tmp_path / "model.safetensors", tensors, metadata)).scheduler
        return scheduler.config.prediction_type, bool(scheduler.config.rescale_betas_zero_snr)

    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    sd1, sd2 = tiny_checkpoint("sd1", assets), tiny_checkpoint("sd2", assets)
    assert kind({**sd1, **marks}) == ("v_prediction", True)
    assert kind(sd2, {"modelspec.prediction_type": "v"}) == ("v_prediction", False)
    assert kind(sd2) == ("epsilon", False)
    norm = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
    assert kind({**sd2, norm: sd2[norm] * 10}) == ("v_prediction", False), "as ComfyUI tells SD 2.x models apart"
    (tmp_path / "model.yaml").write_text('model:\n  params:\n    parameterization: "v"\n', encoding="utf-8")
    assert kind(sd1) == ("v_prediction", False)
    assert identify.of_path(tmp_path / "model.safetensors").prediction_type == "v_prediction"


@pytest.mark.parametrize("asked", ["auto", "on", "off"])
@pytest.mark.parametrize("marks", [("v_pred", "ztsnr"), ("v_pred",)])
def test_zero_terminal_snr_is_what_the_file_says_or_what_is_asked(
    assets: Path, tmp_path: Path, marks: tuple[str, ...], asked: str
) -> None:
    tensors = {**tiny_checkpoint("sdxl", assets), **{name: torch.zeros(0) for name in marks}}
    path = write(tmp_path / "model.safetensors", tensors)
    model = base_models.open_on_meta(str(path), torch.float32, lambda event: None, zero_terminal_snr=asked)
    is_zero = asked == "on" or (asked == "auto" and "ztsnr" in marks)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    abar = torch.cumprod(1 - (rescale_zero_terminal_snr(betas) if is_zero else betas), dim=0)
    torch.testing.assert_close(model.scheduler.alphas_cumprod, abar)
    assert model.prediction_type == "v_prediction"
    sampler = samplers.scheduler("DDIM", model.scheduler.config)
    sampler.set_timesteps(4)
    assert (sampler.timesteps[0] == 999) == is_zero


def test_a_merge_that_lost_every_mark_is_told_what_it_is(assets: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", tiny_checkpoint("sdxl", assets))
    opened = functools.partial(base_models.open_on_meta, str(path), torch.float32, lambda event: None)
    model = opened(prediction_type="v_prediction", zero_terminal_snr="on")
    assert model.prediction_type == "v_prediction" and model.scheduler.alphas_cumprod[-1] == 0
    with pytest.raises(UserError) as refused:
        opened(zero_terminal_snr="on")
    assert refused.value.kind == "models.zero_snr_of_noise"


def test_a_single_file_is_trained_on_with_another_vae_and_what_it_predicts(
    sd1: dict[str, Tensor], pictures: Path, tmp_path: Path
) -> None:
    model = write(tmp_path / "models" / "mein Modell.safetensors", {n: t for n, t in sd1.items() if not n.startswith(VAE)})
    vae = write(tmp_path / "models" / "vae.safetensors", {n: t for n, t in sd1.items() if n.startswith(VAE)})
    values = {"vae": str(vae), "prediction_type": "v_prediction", "max_train_steps": 2, "private_metadata": True}
    job, events = run(config_for(model, pictures, tmp_path / "run", **values))
    assert job.state == "finished" and isinstance(events[-1], Finished), job.error
    with safe_open(job.run.folder / events[-1].path, "pt") as lora:
        metadata = lora.metadata()
    assert metadata["modelspec.prediction_type"] == "v" and str(tmp_path) not in str(metadata)
    job, events = run(config_for(model, pictures, tmp_path / "run", **{**values, "vae": str(tmp_path / "none.pt")}))
    assert isinstance(job.error, UserError) and "There is no VAE" in str(job.error)


def test_v_prediction_is_told_when_it_was_a_guess(assets: Path, tmp_path: Path) -> None:
    told: list[str] = []

    def emit(event: Event) -> None:
        told.extend([str(event.message)] if isinstance(event, Warned) else [])

    path = write(tmp_path / "model.safetensors", tiny_checkpoint("sd2", assets))
    model = base_models.open_on_meta(str(path), torch.float32, emit)
    assert model.prediction_type == "epsilon" and "--prediction_type" in told[0]
    told.clear()
    model = base_models.open_on_meta(str(path), torch.float32, emit, prediction_type="v_prediction")
    assert model.prediction_type == "v_prediction" and not told
