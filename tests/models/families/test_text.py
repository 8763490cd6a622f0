"""lora_core.models.families.text: long captions in parts and clip skip, against formulas written out and diffusers' own."""

from __future__ import annotations

import math
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lora_core.errors import UserError
from lora_core.events import Warned
from lora_core.lora.file import load_tensors
from lora_core.models import load as base_models
from lora_core.models.families.base import BaseModel
from lora_core.models.families.text import CHUNK, parts_of
from lora_core.sampling import sample
from lora_core.sampling.infotext import parameters_text
from lora_core.sampling.params import GenerationParams
from lora_core.training.data.latent_cache import Prompts
from lora_core.webuis.trial_defaults import defaults_for
from tests.support.training import config_for, run
from tests.support.twins import save_twin

FAMILIES = ("sd1", "sd2", "sdxl")
CPU = torch.device("cpu")
LONG = " ".join(f"zebu {n}" for n in range(60))


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = save_twin(request.param, tmp_path_factory.mktemp("twins") / request.param)
    return base_models.load(str(folder), torch.float32, lambda event: None)


@pytest.fixture(autouse=True)
def as_usual(model: BaseModel) -> None:
    model.clip_skip = model.max_chunks = 1


def written_out(model: BaseModel, caption: str, parts: int) -> torch.Tensor:
    """States of a caption, encoder by encoder and part by part."""
    columns = []
    for name, encoder in model.text_encoders.items():
        tokenizer = model.tokenizers[name.replace("text_encoder", "tokenizer")]
        ids = tokenizer(caption, add_special_tokens=False).input_ids
        states = []
        for part in range(parts):
            row = [tokenizer.bos_token_id, *ids[75 * part : 75 * part + 75], tokenizer.eos_token_id]
            row += [tokenizer.pad_token_id] * (77 - len(row))
            told = encoder(torch.tensor([row]), output_hidden_states=True)
            if model.family.name == "sdxl":
                states.append(told.hidden_states[-2])
            else:
                states.append(told.last_hidden_state)
        columns.append(torch.cat(states, dim=1))
    return torch.cat(columns, dim=-1)


@torch.no_grad()
@pytest.mark.parametrize("max_chunks", [1, 2, 3])
def test_a_long_caption_is_read_in_parts_each_between_its_own_marks(model: BaseModel, max_chunks: int) -> None:
    model.max_chunks = max_chunks
    words = max(len(t(LONG, add_special_tokens=False).input_ids) for t in model.tokenizers.values())
    parts = min(max_chunks, math.ceil(words / 75))
    assert words > 75
    made = model.family.encode_text(model, model.family.tokenize(model, [LONG]))
    assert made["encoder_hidden_states"].shape[1] == 77 * parts
    torch.testing.assert_close(made["encoder_hidden_states"], written_out(model, LONG, parts))
    if "pooled" in made:
        model.max_chunks = 1
        alone = model.family.encode_text(model, model.family.tokenize(model, [LONG]))
        torch.testing.assert_close(made["pooled"], alone["pooled"])


@torch.no_grad()
def test_a_short_caption_is_the_same_whatever_may_be_read(model: BaseModel) -> None:
    before = model.family.encode_text(model, model.family.tokenize(model, ["a cow"]))
    model.max_chunks = 3
    after = model.family.encode_text(model, model.family.tokenize(model, ["a cow"]))
    assert all(torch.equal(before[name], after[name]) for name in before)


@torch.no_grad()
def test_captions_of_different_lengths_stand_in_one_batch(model: BaseModel) -> None:
    """The shorter one is repeated, which changes nothing for the UNet, and nothing is encoded anew for it."""
    model.max_chunks = 2
    prompts = Prompts(model, CPU, live=False)
    prompts.prepare(["a cow", LONG, ""], lambda event: None)
    frames = [(64, 64, 0, 0, 64, 64)] * 2
    batch = prompts.base(["a cow", LONG], frames)["encoder_hidden_states"]
    assert batch.shape[1] == 154
    torch.testing.assert_close(batch[:1], written_out(model, "a cow", 1).repeat(1, 2, 1))
    torch.testing.assert_close(batch[1:], written_out(model, LONG, 2))
    assert prompts.base(["a cow", "a cow"], frames)["encoder_hidden_states"].shape[1] == 77
    fresh = Prompts(model, CPU, live=False)
    fresh.prepare([LONG], lambda event: None)
    assert torch.equal(fresh.known[LONG]["encoder_hidden_states"], batch[1]), "from the disk"


@torch.no_grad()
def test_a_repeated_caption_is_the_same_to_the_unet(model: BaseModel) -> None:
    model.max_chunks = 2
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    prompts, frame = Prompts(model, CPU, live=False), (64, 64, 0, 0, 64, 64)
    alone, beside = (prompts(["a cow", other], [frame] * 2) for other in ("a cow", LONG))
    timesteps = torch.tensor([500, 500])
    expected, found = (model.predict(latents, timesteps, conditioning)[0] for conditioning in (alone, beside))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    live = Prompts(model, CPU, live=True)(["a cow", LONG], [frame] * 2)
    torch.testing.assert_close(live["encoder_hidden_states"], beside["encoder_hidden_states"])


def by_a1111(ids: list[int], comma: int) -> list[list[int]]:
    """Token by token, as its prompts are cut: what follows a comma near the end moves into the next part."""
    parts, part, last = [], [], -1
    for token in ids:
        if token == comma:
            last = len(part)
        elif len(part) == 75 and last != -1 and 75 - last <= 20:
            parts.append(part[: last + 1])
            part, last = part[last + 1 :], -1
        if len(part) == 75:
            parts.append(part)
            part, last = [], -1
        part.append(token)
    return [*parts, part]


def test_parts_end_where_a1111_ends_them() -> None:
    rng = random.Random(0)
    for _ in range(500):
        ids = [9 if rng.random() < rng.choice([0.02, 0.1, 0.3]) else 1 for _ in range(rng.randrange(400))]
        assert parts_of(ids, 9, 99) == by_a1111(ids, 9)


def test_a_caption_that_fits_only_without_breaks_at_commas_is_read_whole() -> None:
    ids = [1] * 60 + [9] + [2] * 89  # 150: cut at the comma it would need three parts
    assert [len(part) for part in parts_of(ids, 9, 3)] == [61, 75, 14]
    assert parts_of(ids, 9, 2) == [ids[:CHUNK], ids[CHUNK:]]
    assert parts_of(ids, 9, 1) == [ids[:CHUNK]] and parts_of([], 9, 3) == [[]]


@torch.no_grad()
def test_samples_read_prompts_as_the_training_reads_captions(model: BaseModel) -> None:
    model.max_chunks = 2
    params = GenerationParams(LONG, 1, 64, 64, "ugly", steps=1)
    (made,) = sample._encoded(model, model.family.pipeline(model), [[params]])
    torch.testing.assert_close(made["prompt_embeds"], written_out(model, LONG, 2))
    torch.testing.assert_close(made["negative_prompt_embeds"], written_out(model, "ugly", 1).repeat(1, 2, 1))
    (picture,) = sample.draw(model, [params])
    assert picture.size == (64, 64)


@torch.no_grad()
def test_clip_skip_is_diffusers_own(model: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers counts the layers that are left out: its 1 is everybody else's 2."""
    if not model.family.spec.takes_clip_skip:
        pytest.skip("which layer is read is part of this family")
    model.clip_skip = 2
    made = model.family.encode_text(model, model.family.tokenize(model, ["a red cow"]))["encoder_hidden_states"]
    encoder, tokens = model.text_encoders["text_encoder"], model.family.tokenize(model, ["a red cow"])["tokenizer"]
    # diffusers asks for the layer by the name it had before transformers 5.
    monkeypatch.setattr(encoder, "text_model", SimpleNamespace(final_layer_norm=encoder.final_layer_norm), raising=False)
    theirs, _ = model.family.pipeline(model).encode_prompt("a red cow", CPU, 1, False, clip_skip=1)
    torch.testing.assert_close(made, theirs)
    layers = encoder(tokens, output_hidden_states=True).hidden_states
    torch.testing.assert_close(made, encoder.final_layer_norm(layers[-2]))
    assert not torch.allclose(made, encoder(tokens)[0])


def test_a_training_with_both_tells_it_in_the_file_and_the_test_tab_takes_it(
    model: BaseModel, pictures: Path, tmp_path: Path
) -> None:
    takes = model.family.spec.takes_clip_skip
    base = save_twin(model.family.name, tmp_path / "base")
    values = {"clip_skip": 2, "max_token_length": 150, "max_train_steps": 2, "save_steps": 2, "sample_prompts": [LONG]}
    config = config_for(base, pictures, tmp_path / "run", **values)
    job, events = run(config)
    assert job.error is None
    told = [str(event.message) for event in events if isinstance(event, Warned) and "clip skip" in str(event.message)]
    assert bool(told) != takes
    _, metadata = load_tensors(job.run.lora_file(config))
    assert metadata.get("ss_clip_skip") == ("2" if takes else "None") and metadata["ss_max_token_length"] == "150"
    found = defaults_for(job.run.lora_file(config))
    assert (found.clip_skip, found.max_token_length) == (2, 150)
    again, _ = run(config.replace(max_token_length=75, max_train_steps=3), resume="latest")
    assert isinstance(again.error, UserError) and "max_token_length" in str(again.error)


def test_a_picture_tells_its_clip_skip() -> None:
    params = GenerationParams("a cow", 1, 64, 64, base="base")
    assert "Clip skip" not in parameters_text(params)
    assert "Clip skip: 2" in parameters_text(GenerationParams("a cow", 1, 64, 64, base="base", clip_skip=2))
