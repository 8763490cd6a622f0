"""Metadata: the keys and types webuis read without a guard, the family told by each one's rule, and nothing private."""

from __future__ import annotations

import datetime
import json
import tomllib

import pytest

from lora_core.config import TrainConfig
from lora_core.lora.metadata import (
    CONFIG,
    THUMBNAIL_LIMIT,
    TrainingMetadata,
    build,
    recognisable,
    without_private,
)
from tests.clients import a1111, comfy
from tests.clients.models import FAMILIES

# sd-scripts `train_network.py`: written for every training, and at saving.
ALWAYS = """ss_session_id ss_training_started_at ss_output_name ss_learning_rate ss_text_encoder_lr ss_unet_lr
ss_num_train_images ss_num_validation_images ss_num_reg_images ss_num_batches_per_epoch ss_num_epochs
ss_gradient_checkpointing ss_gradient_accumulation_steps ss_max_train_steps ss_lr_warmup_steps ss_lr_scheduler
ss_network_module ss_network_dim ss_network_alpha ss_network_dropout ss_mixed_precision ss_full_fp16 ss_v2
ss_base_model_version ss_clip_skip ss_max_token_length ss_cache_latents ss_seed ss_lowram ss_noise_offset
ss_multires_noise_iterations ss_multires_noise_discount ss_adaptive_noise_scale ss_zero_terminal_snr
ss_training_comment ss_sd_scripts_commit_hash ss_optimizer ss_max_grad_norm ss_caption_dropout_rate
ss_caption_dropout_every_n_epochs ss_caption_tag_dropout_rate ss_face_crop_aug_range ss_prior_loss_weight
ss_min_snr_gamma ss_scale_weight_norms ss_ip_noise_gamma ss_debiased_estimation ss_noise_offset_random_strength
ss_ip_noise_gamma_random_strength ss_loss_type ss_huber_schedule ss_huber_scale ss_huber_c ss_fp8_base
ss_fp8_base_unet ss_validation_seed ss_validation_split ss_max_validation_steps ss_validate_every_n_epochs
ss_validate_every_n_steps ss_resize_interpolation ss_training_finished_at ss_steps ss_epoch"""
FOLDER_MODE = """ss_batch_size_per_device ss_total_batch_size ss_resolution ss_color_aug ss_flip_aug ss_random_crop
ss_shuffle_caption ss_enable_bucket ss_bucket_no_upscale ss_min_bucket_reso ss_max_bucket_reso ss_keep_tokens
ss_dataset_dirs ss_reg_dataset_dirs ss_tag_frequency ss_bucket_info"""
MODELSPEC = "sai_model_spec architecture implementation title resolution date implementation_version prediction_type"


def facts(family: str = "sd1", **values: object) -> TrainingMetadata:
    """Facts with something in every field, and words that must not leave in private."""
    config = TrainConfig.of(
        {
            "train_data_dir": "/home/secret/Fotos", "trigger_word": "secretword", "output_dir": "/home/secret/out",
            "sample_prompts": ("secretword on a beach",), "prior_prompts": ("a secret cat",), "prior_pictures": 2,
            "sample_negative_prompt": "secretly bad", "pretrained_model_name_or_path": "/home/secret/model",
        }
    )  # fmt: skip
    known: dict[str, object] = {
        "output_name": "zebu", "rank": 16, "alpha": 8.0, "resolution": 512, "base_model": "/home/me/secret-model",
        "learning_rate": 1e-4, "steps": 300, "max_train_steps": 500, "epochs": 12.5, "batches_per_epoch": 24, "seed": 7,
        "training_pictures": 11, "validation_pictures": 1, "buckets": {(512, 512): 7, (640, 384): 5},
        "dataset_dirs": {"secretfolder": (3, 12)}, "tag_frequency": {"secretfolder": {"secretword": 12, "grass": 4}},
        "trigger_phrase": "secretword", "description": "a secret of mine", "author": "secret me",
        "usage_hint": "say secretword", "thumbnail": "data:image/jpeg;base64,secret", "started_at": 1_700_000_000.5,
        "finished_at": 1_700_000_900.0, "config_toml": config.to_toml(), "network_args": {"targets": "to_q,to_v"},
    }  # fmt: skip
    return TrainingMetadata(family=family, **{**known, **values})  # type: ignore[arg-type]


def test_every_key_of_sd_scripts_is_there_as_a_string() -> None:
    metadata = build(facts())
    missing = {
        *ALWAYS.split(),
        *FOLDER_MODE.split(),
        *(f"modelspec.{key}" for key in MODELSPEC.split()),
        CONFIG,
    } - metadata.keys()
    assert not missing
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in metadata.items())


def test_a1111s_dialog_reads_it_without_an_error() -> None:
    """Line by line what `ui_edit_user_metadata.py` does with it, unguarded."""
    metadata = a1111.read_metadata(build(facts()))
    assert float(metadata["ss_training_started_at"]) == 1_700_000_000.5
    resolutions = {}
    for _, bucket in metadata["ss_bucket_info"]["buckets"].items():
        size = bucket["resolution"]
        resolutions[f"{size[1]}x{size[0]}"] = int(bucket["count"])
    assert resolutions == {"512x512": 7, "384x640": 5}
    assert sum(int(params.get("img_count", 0)) for _, params in metadata["ss_dataset_dirs"].items()) == 12
    tags = {tag.strip(): int(count) for _, part in metadata["ss_tag_frequency"].items() for tag, count in part.items()}
    assert tags == {"secretword": 12, "grass": 4}
    for key in ("ss_num_train_images", "ss_num_epochs", "ss_steps", "ss_network_dim", "ss_seed", "ss_keep_tokens"):
        int(metadata[key])
    assert metadata["ss_resolution"] == "(512, 512)"


def test_the_dialog_reads_a_training_of_nothing_special_too() -> None:
    plain = TrainingMetadata(output_name="x", family="sd1", rank=4, alpha=4, resolution=64)
    metadata = a1111.read_metadata(build(plain))
    assert metadata["ss_tag_frequency"] == metadata["ss_dataset_dirs"] == {}
    assert metadata["ss_bucket_info"] == {"buckets": {}, "mean_img_ar_error": 0.0}
    assert metadata["ss_text_encoder_lr"] == metadata["ss_noise_offset"] == metadata["ss_min_snr_gamma"] == "None"


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("family", "version"), [("sd1", "SD1"), ("sd2", "SD2"), ("sdxl", "SDXL")])
def test_each_webui_tells_the_family(family: str, version: str, prediction: str, private: bool) -> None:
    metadata = build(facts(family, prediction_type=prediction, private=private))
    assert a1111.detect_version(metadata) == version
    assert comfy.forge_version(metadata) == version
    assert metadata["ss_v2"] == str(family == "sd2")
    assert metadata["modelspec.prediction_type"] == ("v" if prediction == "v_prediction" else "epsilon")


@pytest.mark.parametrize(
    ("family", "prediction", "version", "architecture"),
    [
        ("sd1", "epsilon", "sd_v1", "stable-diffusion-v1/lora"),
        ("sd1", "v_prediction", "sd_v1_v", "stable-diffusion-v1/lora"),
        ("sd2", "epsilon", "sd_v2", "stable-diffusion-v2-512/lora"),
        ("sd2", "v_prediction", "sd_v2_v", "stable-diffusion-v2-768-v/lora"),
        ("sdxl", "epsilon", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
    ],
)
def test_names_of_the_base_model(family: str, prediction: str, version: str, architecture: str) -> None:
    metadata = build(facts(family, prediction_type=prediction))
    assert metadata["ss_base_model_version"] == version
    assert metadata["modelspec.architecture"] == architecture


def test_modelspec_says_what_people_need() -> None:
    metadata = build(facts(title="Zebu"))
    assert metadata["modelspec.sai_model_spec"] == "1.0.1"
    assert metadata["modelspec.title"] == "Zebu"
    assert metadata["modelspec.resolution"] == "512x512"
    assert metadata["modelspec.trigger_phrase"] == "secretword"
    assert metadata["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")
    assert datetime.datetime.fromisoformat(metadata["modelspec.date"]).timestamp() == 1_700_000_900


def test_a_large_thumbnail_is_left_out() -> None:
    assert "modelspec.thumbnail" not in build(facts(thumbnail="data:" + "x" * THUMBNAIL_LIMIT))


def test_only_the_name_of_a_local_base_model_is_written() -> None:
    for given, written in (("C:\\models\\dream.safetensors", "dream.safetensors"), ("/a/b/", "b"), ("org/sd", "sd")):
        assert build(facts(base_model=given))["ss_sd_model_name"] == written
    assert "ss_sd_model_name" not in build(facts(base_model=""))


def test_the_settings_come_back_from_the_file() -> None:
    values = tomllib.loads(build(facts())[CONFIG])
    assert values["trigger_word"] == "secretword"
    assert TrainConfig.of({k: v for k, v in values.items() if k != "schema"}).train_data_dir == "/home/secret/Fotos"


def test_private_leaves_no_name_tag_or_caption() -> None:
    metadata = build(facts(private=True))
    assert "secret" not in json.dumps(metadata).lower()
    assert metadata["ss_output_name"] == "zebu"
    assert metadata["ss_steps"] == "300"
    assert metadata["modelspec.title"] == "zebu"


def test_private_settings_are_still_a_preset() -> None:
    values = tomllib.loads(build(facts(private=True))[CONFIG])
    config = TrainConfig.of({k: v for k, v in values.items() if k != "schema"})
    assert config.lora_rank == 16


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        ("starter", True), ("runwayml/stable-diffusion-v1-5", True), ("./models/mine", False), ("C:\\m\\mine", False),
        ("/home/me/mine", False), ("models/a/b", False), ("mine.safetensors", False), ("my/mine.ckpt", False),
        ("~/mine", False),
    ],
)  # fmt: skip
def test_private_keeps_public_names_of_base_models_only(model: str, kept: bool) -> None:
    toml = TrainConfig.of({"pretrained_model_name_or_path": model}).to_toml()
    values = tomllib.loads(build(facts(config_toml=toml, private=True))[CONFIG])
    assert ("pretrained_model_name_or_path" in values) == kept


def test_private_also_cleans_the_metadata_of_others() -> None:
    theirs = {
        "ss_tag_frequency": "{}",
        "ss_datasets": "[]",
        "lora_adapter_metadata": "{}",
        "ss_v2": "True",
        "author": "me",
    }
    assert without_private(theirs).keys() == {"ss_v2"}


def test_same_facts_same_metadata() -> None:
    assert build(facts()) == build(facts())


# --- the metadata of others ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "theirs",
    [
        {}, {"format": "pt"}, {"ss_base_model_version": "sdxl_base_v1-0", "ss_v2": "True"},
        {"modelspec.architecture": "stable-diffusion-v1/lora"}, {"modelspec.architecture": "flux-1-dev/lora"},
    ],
)  # fmt: skip
def test_made_recognisable(theirs: dict[str, str], family: str) -> None:
    metadata = recognisable(theirs, family, "mine", [(4, 2.0)])
    version = {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL"}[family]
    assert a1111.detect_version(metadata) == version
    assert comfy.forge_version(metadata) == version
    assert metadata["ss_output_name"] == "mine"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("4", "2.0")


def test_what_is_right_stays_word_for_word() -> None:
    ours = build(facts("sd2", prediction_type="v_prediction"))
    assert recognisable(ours, "sd2", "zebu", [(16, 8.0)]) == ours


def test_a_v_model_of_the_second_family_is_named_so() -> None:
    metadata = recognisable({"ss_base_model_version": "sd_v2_v"}, "sd2", "x", [(4, 4.0)])
    assert metadata["ss_base_model_version"] == "sd_v2_v"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v2-768-v/lora"


def test_settings_of_peft_go_because_alphas_are_written() -> None:
    metadata = recognisable({"lora_adapter_metadata": "{}", "mine": "kept"}, "sd1", "x", [(4, 4.0), (8, 4.0)])
    assert "lora_adapter_metadata" not in metadata
    assert metadata["mine"] == "kept"
    assert metadata["ss_network_dim"] == "Dynamic"
