"""lora_core.training.data.latent_cache: pictures and captions are encoded once, by content, in what memory there is."""

from __future__ import annotations

import shutil
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lora_core.dataset import Item, scan
from lora_core.events import Event, Warned
from lora_core.models import load as base_models
from lora_core.models import vae_tiling
from lora_core.models.families.base import BaseModel, Frame
from lora_core.training.data import latent_cache
from lora_core.training.data.latent_cache import Prompts, encode_pictures
from lora_core.training.data.plan import Plan
from tests.support.training import config_for

CPU = torch.device("cpu")
FRAMES: list[Frame] = [(90, 120, 0, 4, 64, 80), (64, 64, 0, 0, 64, 64)]


@pytest.fixture
def model(tiny_sd1: Path) -> BaseModel:
    return base_models.load(str(tiny_sd1), torch.float32, lambda event: None)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def encoded(model: BaseModel, pictures: Path, **values: object) -> list[latent_cache.Example]:
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


def test_the_vae_is_given_pictures_in_its_own_order_of_numbers(
    model: BaseModel, pictures: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A view of a picture in rows of pixels sends a card's convolutions another, slower way."""
    given: list[tuple[int, ...]] = []
    encode = model.vae.encode

    def noted(pixels_BCHW: torch.Tensor) -> Any:
        assert pixels_BCHW.is_contiguous()
        given.append(tuple(pixels_BCHW.shape))
        return encode(pixels_BCHW)

    monkeypatch.setattr(model.vae, "encode", noted)
    encoded(model, pictures)
    assert (1, 3, 64, 64) in given


def test_a_mirrored_view_is_the_encoding_of_the_mirrored_picture(model: BaseModel, pictures: Path, own_cache: Path) -> None:
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
    assert any(isinstance(event, Warned) and "cache" in str(event.message) for event in told)
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
    assert latent_cache.frame_of(Item(Path("a.png"), "", width, height), size) == frame


class Counted:
    """Stands before a function and keeps how many rows it was given at each call."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.rows: list[int] = []

    def __call__(self, given: Any, *others: Any, **named: Any) -> Any:
        self.rows.append(len(given))
        return self.function(given, *others, **named)


def test_a_changed_caption_costs_that_caption_alone(
    model: BaseModel, pictures: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae, texts = Counted(model.vae.encode), Counted(model.text_encoders["text_encoder"].forward)
    monkeypatch.setattr(model.vae, "encode", vae)
    monkeypatch.setattr(model.text_encoders["text_encoder"], "forward", texts)
    encoded(model, pictures)
    Prompts(model, CPU, live=False).prepare(["a zebu", "a gnu", "an okapi"], lambda event: None)
    before = len(vae.rows), len(texts.rows)
    encoded(model, pictures)
    again = Prompts(model, CPU, live=False)
    again.prepare(["a zebu", "a gnu at night", "an okapi"], lambda event: None)
    assert (len(vae.rows) - before[0], len(texts.rows) - before[1]) == (0, 1)
    assert set(again.known) == {"a zebu", "a gnu at night", "an okapi"}


def test_a_changed_picture_costs_that_picture_alone(
    model: BaseModel, pictures: Path, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(pictures, tmp_path / "copy"))
    encoded(model, copy)
    vae = Counted(model.vae.encode)
    monkeypatch.setattr(model.vae, "encode", vae)
    Image.new("RGB", (64, 64), (1, 2, 3)).save(first_picture(copy))
    encoded(model, copy)
    assert vae.rows == [1]


def first_picture(folder: Path) -> Path:
    """The first that is trained on, so not held out."""
    plan = Plan.of(config_for("tiny", folder, Path("unused")), scan(folder))
    return plan.training[0].path


def test_a_card_takes_several_of_a_size_at_once_and_gives_each_its_own(
    model: BaseModel, pictures: Path, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = encoded(model, pictures, random_flip=True)
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "another"))
    monkeypatch.setattr(latent_cache, "pictures_at_once", lambda device, size: 3)
    vae = Counted(model.vae.encode)
    monkeypatch.setattr(model.vae, "encode", vae)
    together = encoded(model, pictures, random_flip=True)
    assert max(vae.rows) == 3 and sum(vae.rows) == 2 * len(alone)
    for one, other in zip(alone, together, strict=True):
        assert one.caption == other.caption and one.frame == other.frame
        for view, same in zip(one.views, other.views, strict=True):
            torch.testing.assert_close(view, same)


def test_a_card_that_runs_out_of_memory_takes_fewer_at_once(
    model: BaseModel, pictures: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent_cache, "pictures_at_once", lambda device, size: 4)
    encode = model.vae.encode

    def small_card(pixels_BCHW: torch.Tensor) -> Any:
        if len(pixels_BCHW) > 1:
            raise torch.OutOfMemoryError("no room")
        return encode(pixels_BCHW)

    monkeypatch.setattr(model.vae, "encode", small_card)
    assert len(encoded(model, pictures)) == len(encoded(model, pictures, random_flip=True))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), RuntimeError("CUDNN_STATUS_ALLOC_FAILED")])
def test_nothing_of_the_encode_that_failed_is_left_when_fewer_are_tried(
    error: Exception, model: BaseModel, pictures: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent_cache, "pictures_at_once", lambda device, size: 4)
    encode, failed, tries = model.vae.encode, [], []

    def small_card(pixels_BCHW: torch.Tensor) -> Any:
        tries.append(sum(tensor() is not None for tensor in failed))
        if len(pixels_BCHW) > 1:
            activations = pixels_BCHW * 2
            failed.extend((weakref.ref(pixels_BCHW), weakref.ref(activations)))
            raise type(error)(*error.args)
        return encode(pixels_BCHW)

    monkeypatch.setattr(model.vae, "encode", small_card)
    encoded(model, pictures)
    assert len(failed) > 2 and not any(tries)


def test_a_picture_too_large_for_the_card_is_encoded_in_tiles(
    pictures: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = base_models.load("starter", torch.float32, lambda event: None)
    whole = encoded(model, pictures, resolution=128)
    shutil.rmtree(own_cache)
    sides = []
    encode = model.vae.encoder.forward
    monkeypatch.setattr(model.vae.encoder, "forward", lambda x: (sides.append(max(x.shape[2:])), encode(x))[1])
    monkeypatch.setattr(vae_tiling, "TILE", 8)
    monkeypatch.setattr(latent_cache, "free_bytes", lambda device: 0)
    tiled = encoded(model, pictures, resolution=128)
    ratio = 2 ** (len(model.vae.config.block_out_channels) - 1)
    assert len(sides) > len(tiled) and max(sides) <= 8 * ratio
    for one, other in zip(whole, tiled, strict=True):
        (mean, _), (again, _) = one.views[0], other.views[0]
        assert mean.shape == again.shape
        assert 0 < (mean - again).abs().mean() < 0.15 * mean.std()


def test_a_batch_fits_where_a_quarter_of_the_card_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    card = torch.device("cuda")
    for free, size, count in ((1e12, (512, 512), 4), (1e12, (1024, 1024), 1), (4e9, (512, 512), 1), (8e9, (384, 640), 3)):
        monkeypatch.setattr(latent_cache, "free_bytes", lambda device, free=free: free)
        assert latent_cache.pictures_at_once(card, size) == count
    assert latent_cache.pictures_at_once(CPU, (64, 64)) == 1


def test_giving_up_while_pictures_are_encoded_leaves_no_thread_behind(
    model: BaseModel, pictures: Path, own_cache: Path
) -> None:
    config = config_for("tiny", pictures, Path("unused"))
    plan = Plan.of(config, scan(pictures))

    def stop(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_pictures(model, plan, plan.training, config, CPU, stop)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pictures")]
    assert len(encoded(model, pictures)) == len(plan.training)
