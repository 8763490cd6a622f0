"""Make the stripped models: shapes from the libraries' own models on the meta device, names as the files have them.

python -m tests.stripped.make
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)  # fmt: skip
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lora_core.models.identify import settings_in
from lora_core.models.single_file import ASSETS
from lora_core.models.unet_keys import to_original
from lora_core.system.tensor_headers import Tensor
from tests.stripped import FOLDER

Shapes = dict[str, tuple[int, ...]]


def shapes(make: Callable[[], Any]) -> Shapes:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in make().state_dict().items()}


def unet(family: str, assets: Path = ASSETS, **changes: Any) -> Shapes:
    settings = {**settings_in(assets / family / "unet" / "config.json"), **changes}
    return shapes(lambda: UNet2DConditionModel.from_config(settings))


def original_unet(found: Shapes, prefix: str = "model.diffusion_model.") -> Shapes:
    made = {}
    for name, shape in found.items():
        path, _, kind = name.rpartition(".")
        path = to_original(path)
        level = ".".join(name.split(".")[:2])
        if path.endswith(".2.conv") and not any(n.startswith(f"{level}.attentions") for n in found):
            path = path.replace(".2.conv", ".1.conv")  # the upsampler comes directly behind the resnet there
        made[f"{prefix}{path}.{kind}"] = shape
    return made


def original_vae(prefix: str = "first_stage_model.", assets: Path = ASSETS) -> Shapes:
    found = shapes(lambda: AutoencoderKL.from_config(settings_in(assets / "sd1" / "vae" / "config.json")))
    made = {}
    for name, shape in found.items():
        for pattern, new in (
            (r"conv_norm_out", "norm_out"), (r"conv_shortcut", "nin_shortcut"), (r"resnets\.(\d)", r"block.\1"),
            (r"mid_block\.block\.0", "mid.block_1"), (r"mid_block\.block\.1", "mid.block_2"),
            (r"mid_block\.attentions\.0\.", "mid.attn_1."), (r"group_norm", "norm"), (r"to_out\.0", "proj_out"),
            (r"attn_1\.to_(.)", r"attn_1.\1"), (r"down_blocks", "down"), (r"downsamplers\.0", "downsample"),
            (r"upsamplers\.0", "upsample"),
        ):  # fmt: skip
            name = re.sub(pattern, new, name)
        name = re.sub(r"up_blocks\.(\d)", lambda m: f"up.{3 - int(m[1])}", name)
        if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name):
            shape = (*shape, 1, 1)
        made[prefix + name] = shape
    return made


def clip(folder: str, prefix: str, assets: Path = ASSETS) -> Shapes:
    found = shapes(lambda: CLIPTextModel(CLIPTextConfig(**settings_in(assets / folder / "config.json"))))
    made = {f"{prefix}transformer.text_model.{name.removeprefix('text_model.')}": s for name, s in found.items()}
    return {**made, f"{prefix}transformer.text_model.embeddings.position_ids": (1, 77)}


def open_clip(width: int, layers: int, prefix: str, words: int = 49408) -> Shapes:
    """As open_clip/transformer.py builds it; SD2's has one more layer than is used."""
    made: Shapes = {
        "positional_embedding": (77, width), "text_projection": (width, width), "logit_scale": (),
        "token_embedding.weight": (words, width), "ln_final.weight": (width,), "ln_final.bias": (width,),
    }  # fmt: skip
    for layer in range(layers):
        block = f"transformer.resblocks.{layer}."
        for name in ("ln_1", "ln_2"):
            made |= {f"{block}{name}.weight": (width,), f"{block}{name}.bias": (width,)}
        made |= {
            f"{block}attn.in_proj_weight": (3 * width, width), f"{block}attn.in_proj_bias": (3 * width,),
            f"{block}attn.out_proj.weight": (width, width), f"{block}attn.out_proj.bias": (width,),
            f"{block}mlp.c_fc.weight": (4 * width, width), f"{block}mlp.c_fc.bias": (4 * width,),
            f"{block}mlp.c_proj.weight": (width, 4 * width), f"{block}mlp.c_proj.bias": (width,),
        }  # fmt: skip
    return {prefix + name: shape for name, shape in made.items()}


def schedule() -> Shapes:
    """Lightning saves what it computed from the betas too."""
    return {name: (1000,) for name in ("betas", "alphas_cumprod", "sqrt_alphas_cumprod", "posterior_variance")}


def averaged(checkpoint: Shapes) -> Shapes:
    """The EMA copy: the UNet's names without their dots behind model_ema."""
    prefix = "model.diffusion_model."
    names = {n: f"model_ema.diffusion_model{n[len(prefix) :].replace('.', '')}" for n in checkpoint if n.startswith(prefix)}
    return {**{names[n]: checkpoint[n] for n in names}, "model_ema.decay": (), "model_ema.num_updates": ()}


def tensor(name: str, shape: tuple[int, ...], dtype: str) -> Tensor:
    """A tensor of a checkpoint whose weights have this format."""
    return Tensor("I64" if name.endswith("position_ids") else dtype, shape)


def lora(found: Shapes) -> Shapes:
    made: Shapes = {}
    for name, shape in found.items():
        if re.search(r"attn2\.to_[qv]\.weight$", name):
            key = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
            made |= {f"{key}.lora_up.weight": (shape[0], 8), f"{key}.lora_down.weight": (8, shape[1]), f"{key}.alpha": ()}
    return made


def base(family: str, assets: Path = ASSETS) -> Shapes:
    """A checkpoint as its makers published it."""
    made = {**original_unet(unet(family, assets)), **original_vae(assets=assets)}
    if family == "sd1":
        return {**schedule(), **made, **clip("sd1/text_encoder", "cond_stage_model.", assets)}
    large = settings_in(assets / family / ("text_encoder_2" if family == "sdxl" else "text_encoder") / "config.json")
    width, layers, words = large["hidden_size"], large["num_hidden_layers"], large["vocab_size"]
    if family == "sd2":
        return {**schedule(), **made, **open_clip(width, layers + 1, "cond_stage_model.model.", words)}
    small = clip("sdxl/text_encoder", "conditioner.embedders.0.", assets)
    return {**made, **small, **open_clip(width, layers, "conditioner.embedders.1.model.", words)}


def bases() -> dict[str, Shapes]:
    sd1, sd2, sdxl = (base(family) for family in ("sd1", "sd2", "sdxl"))
    refiner = unet(
        "sdxl", block_out_channels=[384, 768, 1536, 1536], cross_attention_dim=1280, transformer_layers_per_block=4,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        attention_head_dim=[6, 12, 24, 24], projection_class_embeddings_input_dim=2560,
    )  # fmt: skip
    return {
        "sd1": sd1, "sd2": sd2, "sdxl": sdxl,
        "sd1_inpainting": {**sd1, **original_unet(unet("sd1", in_channels=9))},
        "sd1_edit": {**sd1, **original_unet(unet("sd1", in_channels=8))},
        "sd1_with_ema": {**sd1, **averaged(sd1)},
        "sd1_ema_only": {n: s for n, s in {**sd1, **averaged(sd1)}.items() if not n.startswith("model.diffusion_model.")},
        "sd2_depth": {**sd2, **original_unet(unet("sd2", in_channels=5))},
        "sd2_unclip": {**sd2, "model.diffusion_model.label_emb.0.0.weight": (1280, 2048)},
        "sdxl_v": {**sdxl, "v_pred": (), "ztsnr": ()},
        "sdxl_refiner": {
            **original_unet(refiner), **original_vae(), **open_clip(1280, 32, "conditioner.embedders.0.model.")
        },
        "sdxl_without_vae": {n: s for n, s in sdxl.items() if not n.startswith("first_stage_model.")},
        "ssd_1b": {n: s for n, s in sdxl.items() if not re.search(r"middle_block\.1\.transformer_blocks\.[1-9]", n)},
        "playground": {**sdxl, "edm_mean": (4,), "edm_std": (4,)},
    }  # fmt: skip


def others() -> dict[str, Shapes]:
    lcm = unet("sd1", time_cond_proj_dim=256)
    control = shapes(lambda: ControlNetModel(cross_attention_dim=768, block_out_channels=(32, 64, 64, 64)))
    flux = shapes(lambda: FluxTransformer2DModel(num_layers=2, num_single_layers=2, guidance_embeds=True))
    text = shapes(
        lambda: CLIPTextModelWithProjection(CLIPTextConfig(**settings_in(ASSETS / "sdxl/text_encoder_2/config.json")))
    )
    return {
        "sd1_unet_only": original_unet(unet("sd1")), "sdxl_unet_diffusers": unet("sdxl"), "sd1_lcm": lcm,
        "vae": original_vae(""), "vae_in_checkpoint_names": original_vae(), "controlnet_diffusers": control,
        "vae_diffusers": shapes(lambda: AutoencoderKL.from_config(settings_in(ASSETS / "sdxl/vae/config.json"))),
        "controlnet": {
            **{n.replace("model.diffusion_model", "control_model"): s for n, s in original_unet(unet("sd1")).items()
               if "output_blocks" not in n},
            "control_model.input_hint_block.0.weight": (16, 3, 3, 3),
        },
        "flux_diffusers": flux,
        "flux": {
            "model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (9216, 3072),
            "model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale": (128,),
            "model.diffusion_model.img_in.weight": (3072, 64), "vae.encoder.conv_in.weight": (128, 3, 3, 3),
            "text_encoders.clip_l.transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
        },
        "sd3_diffusers": shapes(lambda: SD3Transformer2DModel(num_layers=2)),
        "sd3": {
            "model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias": (9216,),
            "model.diffusion_model.x_embedder.proj.weight": (1536, 16, 2, 2),
            "first_stage_model.decoder.conv_in.weight": (512, 16, 3, 3),
        },
        "pixart": shapes(lambda: PixArtTransformer2DModel(num_layers=2, sample_size=64)),
        "lora": lora(unet("sdxl")), "text_encoder": text,
        "lora_peft": {
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight": (8, 320),
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight": (320, 8),
        },
        "embedding": {"emb_params": (4, 768)}, "embedding_sdxl": {"clip_l": (4, 768), "clip_g": (4, 1280)},
        "upscaler": {"model.0.weight": (64, 3, 3, 3), "model.1.sub.0.RDB1.conv1.0.weight": (32, 64, 3, 3)},
        "motion": {"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": (320,)},
        "svd": {
            **original_unet(unet("sd2", in_channels=8)),
            "model.diffusion_model.input_blocks.1.1.time_stack.0.norm_in.weight": (320,),
        },
        "unknown": {"layer.0.weight": (3, 4)},
    }  # fmt: skip


FORMATS = {
    "sd1_inpainting": "F32", "sd2": "F32", "sdxl_without_vae": "BF16", "sd1_unet_only": "F8_E4M3", "sd1_with_ema": "F32",
}  # fmt: skip


def main() -> None:
    for name, found in {**bases(), **others()}.items():
        dtype = FORMATS.get(name, "F16")
        table: dict[str, object] = {key: tensor(key, shape, dtype) for key, shape in found.items()}
        with (FOLDER / f"{name}.json.gz").open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
            packed.write(json.dumps(table, separators=(",", ":")).encode())


if __name__ == "__main__":
    main()
