from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_core import base_models, cache
from lora_core.cache import Prompts, encode_pictures
from lora_core.dataset import Item, scan
from lora_core.events import Event, Warned
from lora_core.families import BaseModel, Frame
from lora_core.plan import Plan
from tests.training import config_for

CPU = torch.device("cpu")
FRAMES: list[Frame] = [(90, 120, 0, 4, 64, 80), (64, 64, 0, 0, 64, 64)]


@pytest.fixture
def model(tiny_sd1: Path) -> BaseModel:
    return base_models.load(str(tiny_sd1), torch.float32, lambda event: None)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def encoded(model: BaseModel, pictures: Path, **values: object) -> list[cache.Example]:
    config = config_for("tiny", pictures, Path("unused"), **values)
    plan = Plan.of(config, scan(pictures))
    return encode_pictures(model, plan, plan.training, config, CPU, lambda event: None)


def test_latents_come_from_disk_the_second_time_and_are_the_same(
    model: BaseModel, pictures: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encoded(model, pictures)
    monkeypatch.setattr(model.vae, "encode", None)  # whoever calls it now fails
    second = encoded(model, pictures)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.views[0][0], other.views[0][0]) and one.caption == other.caption
    assert {tuple(e.views[0][0].shape) for e in first} == {(4, 8, 8), (4, 6, 10), (4, 10, 6)}


def test_a_mirrored_view_is_the_encoding_of_the_mirrored_picture(
    model: BaseModel, pictures: Path, own_cache: Path
) -> None:
    plain, mirrored = encoded(model, pictures, random_flip=True)[0].views
    assert plain[0].shape == mirrored[0].shape and not torch.allclose(plain[0], mirrored[0], atol=1e-3)


def test_a_damaged_file_is_made_anew(model: BaseModel, pictures: Path, own_cache: Path) -> None:
    first = encoded(model, pictures)
    for path in own_cache.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    again = encoded(model, pictures)
    assert torch.equal(first[0].views[0][0], again[0].views[0][0])
    assert all(path.stat().st_size > 100 for path in own_cache.rglob("*.safetensors"))


def test_other_weights_never_get_the_cached_tensors(model: BaseModel, pictures: Path, own_cache: Path) -> None:
    first = encoded(model, pictures)
    model.fingerprints.clear()
    with torch.no_grad():
        next(model.vae.parameters()).add_(0.1)
    assert not torch.equal(first[0].views[0][0], encoded(model, pictures)[0].views[0][0])


def test_a_cache_that_cannot_be_written_is_told_and_trained_without(
    model: BaseModel, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "file" / "cache"))
    told: list[Event] = []
    prompts = Prompts(model, CPU, live=False)
    prompts.prepare(["a zebu"], told.append)
    assert any(isinstance(event, Warned) and "cache" in event.message for event in told)
    assert prompts(["a zebu"], FRAMES[:1])["encoder_hidden_states"].shape == (1, 77, 96)


def test_prompts_answer_from_memory_or_live(model: BaseModel, own_cache: Path) -> None:
    fixed, live = Prompts(model, CPU, live=False), Prompts(model, CPU, live=True)
    fixed.prepare(["a zebu", "a gnu"], lambda event: None)
    known, anew = fixed(["a gnu", "a zebu"], FRAMES), live(["a gnu", "a zebu"], FRAMES)
    torch.testing.assert_close(known["encoder_hidden_states"], anew["encoder_hidden_states"])
    assert known["frames"].tolist() == anew["frames"].tolist() == [list(frame) for frame in FRAMES]
    with torch.no_grad():
        next(model.text_encoders["text_encoder"].parameters()).add_(0.5)
    assert torch.equal(fixed(["a gnu", "a zebu"], FRAMES)["encoder_hidden_states"], known["encoder_hidden_states"])
    changed = live(["a gnu", "a zebu"], FRAMES)["encoder_hidden_states"]
    assert not torch.allclose(changed, anew["encoder_hidden_states"])


@pytest.mark.parametrize(
    ("width", "height", "size", "frame"),
    [
        (512, 512, (512, 512), (512, 512, 0, 0, 512, 512)),
        (2000, 1000, (512, 512), (1000, 2000, 0, 256, 512, 512)),  # scaled to 1024 x 512, a quarter cut at each side
        (300, 900, (256, 512), (900, 300, 128, 0, 512, 256)),  # scaled to 256 x 768
        (100, 100, (1024, 1024), (100, 100, 0, 0, 1024, 1024)),  # scaled up: the model is told how small it was
    ],
)
def test_a_frame_tells_the_size_before_scaling_and_the_cut_after_it(
    width: int, height: int, size: tuple[int, int], frame: Frame
) -> None:
    assert cache.frame_of(Item(Path("a.png"), "", width, height), size) == frame
