"""lora_core.config: the brief's defaults, a frozen list of settings, TOML there and back, and errors in sentences."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from lora_core.config import PRESETS, TrainConfig, find_preset, migrated, read_preset, read_values, settings
from lora_core.errors import UserError
from lora_core.settings import ConfigError, Setting
from tests.support import header_lengths

# What the brief lists under "Parâmetros importantes" and in its text.
BRIEF = {
    "pretrained_model_name_or_path": "runwayml/stable-diffusion-v1-5",
    "output_dir": "./lora_out",
    "resolution": 512,
    "train_batch_size": 1,
    "learning_rate": 1e-5,
    "max_train_steps": 1500,
    "save_steps": 500,
    "lora_rank": 16,
    "mixed_precision": "fp16",
    "gradient_accumulation_steps": 1,
    "target_modules": ("to_q", "to_v"),
    "output_name": "pytorch_lora_weights",
}

# A new setting is a promise to keep it working for good: add it here on purpose.
FROZEN = """
    train_data_dir trigger_word resolution enable_bucket bucket_step random_flip shuffle_tags keep_tags
    caption_dropout transparent_color pretrained_model_name_or_path vae prediction_type mixed_precision device
    optimizer_on_host eight_bit_base lean_activations gradient_checkpointing checkpointed_quarters cuda_graphs
    torch_compile lora_rank lora_alpha target_modules block_ranks target_blocks train_text_encoder lora_dropout adapter
    max_train_steps train_batch_size gradient_accumulation_steps learning_rate text_encoder_lr lr_scheduler
    lr_warmup_steps optimizer weight_decay max_grad_norm ema_decay seed snr_gamma timestep_sampling noise_offset
    prior_prompts prior_pictures prior_loss_weight prior_every output_dir output_name save_steps keep_states save_precision
    private_metadata validation_split sample_prompts sample_count sample_inference_steps sample_guidance
    sample_negative_prompt
    debiased_estimation_loss min_timestep max_timestep loss_type huber_c huber_schedule multires_noise_discount
    init_lora ip_noise_gamma zero_terminal_snr lr_scheduler_num_cycles lr_scheduler_power clip_skip
    max_token_length conv_rank conv_alpha
"""


@pytest.mark.parametrize("name", list(BRIEF))
def test_defaults_are_the_briefs(name: str) -> None:
    assert getattr(TrainConfig(), name) == BRIEF[name]


def test_the_brief_requires_a_folder_so_there_is_no_default() -> None:
    assert TrainConfig().train_data_dir == ""


def test_mixed_precision_offers_what_the_brief_lists() -> None:
    assert settings()["mixed_precision"].choices == ("no", "fp16", "bf16")


def test_the_list_of_settings_is_frozen() -> None:
    assert sorted(settings()) == sorted(FROZEN.split())
    assert len(FROZEN.split()) <= 80  # more, and nobody finds any


def test_every_default_is_a_value_its_own_setting_takes() -> None:
    assert TrainConfig.of(dataclasses.asdict(TrainConfig())) == TrainConfig()


@pytest.mark.parametrize("s", settings().values(), ids=lambda s: s.name)
def test_every_setting_explains_itself(s: Setting) -> None:
    assert s.help[0].isupper() or s.help[0] in "'\""
    assert s.help.endswith(".")
    assert s.topic
    assert s.kind not in (int, float) or (s.low is not None and s.high is not None)


def test_eight_fields_are_basic() -> None:
    assert sum(s.basic for s in settings().values()) == 8


def test_a_config_never_changes() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().lora_rank = 4  # type: ignore[misc]
    first = TrainConfig()
    assert first.replace(lora_rank="4").lora_rank == 4
    assert first.lora_rank == 16


def test_a_unet_without_any_part_is_told() -> None:
    with pytest.raises(ConfigError, match="no part of the UNet is left; name at least one of down, mid, up"):
        TrainConfig.of({"target_blocks": []})


def test_alpha_zero_means_the_rank() -> None:
    assert TrainConfig(lora_rank=8).alpha == 8.0
    assert TrainConfig(lora_rank=8, lora_alpha=4.0).alpha == 4.0


def value_of(s: Setting) -> st.SearchStrategy[object]:
    if s.choices:
        one = st.sampled_from(s.choices)
        return st.lists(one).map(tuple) if s.kind is tuple else one
    text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
    low, high = s.low or 0, s.high or 0
    step = s.multiple_of or 1
    return {
        bool: st.booleans(),
        int: st.integers(-(-int(low) // step), int(high) // step).map(lambda n: n * step),
        float: st.floats(low, high),
        str: text
        | st.sampled_from(['C:\\Usuários\\João\\"fotos"', "line\nbreak\r\n", "'''", '"""', "画像 🎨", "\x7f\x01"]),
        tuple: st.lists(text).map(tuple),
    }[s.kind]


@hypothesis_settings(max_examples=150, deadline=None)
@given(values=st.fixed_dictionaries({}, optional={name: value_of(s) for name, s in settings().items()}))
def test_toml_gives_back_the_same_config(tmp_path_factory: pytest.TempPathFactory, values: dict[str, object]) -> None:
    file = tmp_path_factory.getbasetemp() / "round trip ção.toml"
    config = TrainConfig(**values)  # type: ignore[arg-type]  # clashes between settings are not the matter here
    file.write_bytes(config.to_toml().encode("utf-8"))
    read = read_values(file)
    assert read == {name: list(v) if isinstance(v, tuple) else v for name, v in config.values().items()}


def test_a_file_with_a_bom_and_windows_line_ends_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes("\ufefflora_rank = 4\r\ntrigger_word = 'café'\r\n".encode())
    assert read_values(file) == {"lora_rank": 4, "trigger_word": "café"}


def test_all_problems_at_once() -> None:
    with pytest.raises(ConfigError) as told:
        TrainConfig.of(
            {"lora_rnk": 4, "resolution": 513, "seed": "x", "mixed_precision": "fp8", "learning_rate": float("nan")}
        )
    text = str(told.value)
    assert [p.field for p in told.value.problems] == [
        "lora_rnk",
        "resolution",
        "seed",
        "mixed_precision",
        "learning_rate",
    ]
    assert "Did you mean 'lora_rank'?" in text
    assert "take 512 or 520" in text
    assert "nan is not a usable number" in text


@pytest.mark.parametrize("name", ["lora_rank", "train_batch_size", "max_train_steps", "gradient_accumulation_steps"])
def test_zero_of_what_must_be_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: 0 is too low; the least is 1"):
        TrainConfig.of({name: 0})


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"resolution": 64}, None),
        ({"resolution": 32}, "bucket_step"),
        ({"prior_pictures": 4}, "prior_prompts"),
        ({"target_modules": []}, "target_modules"),
        ({"transparent_color": "white"}, "transparent_color"),
        ({"transparent_color": "#12345g"}, "transparent_color"),
        ({"transparent_color": "#١٢٣٤٥٦"}, "transparent_color"),
        ({"output_name": ""}, "output_name"),
        ({"output_name": "a/b"}, "output_name"),
        ({"output_name": "..\\b"}, "output_name"),
        ({"output_name": ".."}, "output_name"),
        ({"output_name": "a:b"}, "output_name"),
        ({"output_name": "a\nb"}, "output_name"),
        ({"output_name": "con"}, "output_name"),
        ({"output_name": "LPT1.v2"}, "output_name"),
        ({"output_name": "name "}, "output_name"),
        ({"output_name": "ç" * 101}, "output_name"),
        ({"output_name": "ampulheta v1.2 画像"}, None),
        ({"target_modules": [], "train_text_encoder": True}, None),
        ({"resolution": 32, "enable_bucket": False}, None),
        ({"min_timestep": 500, "max_timestep": 500}, "min_timestep"),
        ({"debiased_estimation_loss": True, "snr_gamma": 5}, "debiased_estimation_loss"),
        ({"prediction_type": "epsilon", "zero_terminal_snr": "on"}, "zero_terminal_snr"),
        ({"noise_offset": 0.05, "multires_noise_discount": 0.3}, "multires_noise_discount"),
        ({"optimizer": "prodigy"}, "learning_rate"),
        ({"optimizer": "prodigy", "learning_rate": 0.09}, "learning_rate"),
        ({"optimizer": "prodigy", "learning_rate": 1}, None),
        ({"optimizer": "prodigy", "learning_rate": 0.5, "text_encoder_lr": 0.05}, None),
    ],
)
def test_settings_that_clash_are_refused(values: dict[str, object], field: str | None) -> None:
    if field is None:
        TrainConfig.of(values)
        return
    with pytest.raises(ConfigError) as told:
        TrainConfig.of(values)
    assert [p.field for p in told.value.problems] == [field]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"lora_rank = ", "not valid TOML"),
        (b"\xff\xfe\x00", "not valid TOML"),
        (b"a = " + b"[" * 100_000, "not valid TOML"),
        (b"lora_rank = " + b"9" * 5000, "not valid TOML"),
        (b"schema = 4\n", "schema 4; this Treino reads up to 3"),
        (b"schema = 'x'\n", "schema 'x'"),
        (b"schema = true\n", "schema True"),
    ],
    ids=["cut", "not-utf8", "deep", "huge-number", "newer", "schema-text", "schema-true"],
)
def test_a_damaged_file_is_told_in_a_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message) as told:
        read_values(file)
    assert str(file) in str(told.value)
    assert len(str(told.value)) < len(str(file)) + 300


def test_a_huge_file_is_read_or_told(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(b"trigger_word = '" + b"x" * 5_000_000 + b"'\n")
    assert len(str(read_values(file)["trigger_word"])) == 5_000_000


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no file"):
        read_values(tmp_path / "none.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(UserError, match=r"folder.toml cannot be read"):
        read_values(tmp_path / "folder.toml")


def test_the_weight_file_is_the_preset(tmp_path: Path) -> None:
    config = TrainConfig(trigger_word="ampulheta ção", lora_rank=7, sample_prompts=("a, b", 'c "d"'))
    file = tmp_path / "minha LoRA.safetensors"
    save_file({"a": np.zeros(2, np.float16)}, file, {"treino.config": config.to_toml(), "ss_network_dim": "7"})
    assert TrainConfig.of(read_values(file)) == config
    assert TrainConfig.of(find_preset(str(file)).values) == config


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x05",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 21) + json.dumps({"__metadata__": None}).encode(),
    ],
    ids=["empty", "short", "length-too-great", "cut", "no-metadata", "a-list", "null"],
)
def test_a_lora_without_our_settings_is_told(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "other.safetensors"
    file.write_bytes(content)
    with pytest.raises(UserError, match="holds no Treino settings"):
        read_values(file)


def test_presets_by_name_by_file_and_by_a_wrong_name(tmp_path: Path) -> None:
    assert find_preset("quickstart") == read_preset(PRESETS / "quickstart.toml")
    with pytest.raises(UserError, match=r"Did you mean 'quickstart'?"):
        find_preset("quikstart")
    with pytest.raises(UserError, match="There is no file"):
        find_preset(str(tmp_path / "none.toml"))
    (tmp_path / "bad.toml").write_bytes(b"preset = 5\n")
    with pytest.raises(UserError, match=r"\[preset\] must be a table"):
        find_preset(str(tmp_path / "bad.toml"))


def test_settings_are_read_from_a_header_of_any_length() -> None:
    for length, path in header_lengths.headers():
        if length >= header_lengths.SHORTEST:
            assert read_values(path) == {"max_train_steps": 7}, length
        else:
            with pytest.raises(UserError, match="settings"):
                read_values(path)


@pytest.mark.parametrize(("before", "now"), [("true", "auto"), ("false", "off"), ("'on'", "on"), ("'off'", "off")])
@pytest.mark.parametrize("schema", ["", "schema = 1\n", "schema = 2\n"], ids=["by hand", "first", "second"])
def test_graphs_that_were_on_or_off_are_read_as_what_was_meant(
    schema: str, before: str, now: str, tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"{schema}cuda_graphs = {before}\n", encoding="utf-8")
    assert TrainConfig.of(read_values(file)).cuda_graphs == now


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("use_dora = true", {"adapter": "dora"}),
        ("use_dora = false\nuse_rslora = false", {"adapter": "lora", "lora_alpha": 0.0}),
        ("use_rslora = true", {"lora_rank": 16, "lora_alpha": 64.0, "conv_rank": 0, "conv_alpha": 0.0}),
        ("use_rslora = true\nuse_dora = true\nlora_rank = 4\nlora_alpha = 3.0",
         {"adapter": "dora", "lora_rank": 4, "lora_alpha": 6.0}),
        ("use_rslora = true\nconv_rank = 4", {"lora_alpha": 64.0, "conv_rank": 4, "conv_alpha": 8.0}),
        ("use_rslora = true\nconv_alpha = 1.0", {"lora_alpha": 64.0, "conv_rank": 16, "conv_alpha": 4.0}),
    ],
)  # fmt: skip
def test_switches_of_older_versions_are_read_as_what_they_meant(
    before: str, now: dict[str, object], tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"schema = 2\n{before}\n", encoding="utf-8")
    assert TrainConfig.of(read_values(file)) == TrainConfig.of(now)


def test_a_stabilised_rank_has_the_scale_that_it_had() -> None:
    for rank, alpha in ((1, 0.0), (7, 5.0), (1024, 4096.0)):
        now = TrainConfig.of(migrated({"use_rslora": True, "lora_rank": rank, "lora_alpha": alpha}))
        assert now.alpha / now.lora_rank == pytest.approx((alpha or rank) / rank**0.5)


@pytest.mark.parametrize("values", [{"use_dora": "perhaps"}, {"use_rslora": 3}, {"use_rslora": True, "lora_rank": "x"}])
def test_what_older_switches_never_meant_is_told(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="use_dora|use_rslora|lora_rank"):
        TrainConfig.of(migrated(values))
