"""Train the bundled starter model from nothing: tokenizer, VAE, then UNet and text encoder together.

    python -m lora_core.starter.train_starter

runs on two CPU cores (two one-thread processes that average their gradients over gloo) or one GPU. Every phase
writes checkpoints into `--work` and goes on from the last one when started again. The result, in fp16, lands in
`--out`. Held-out colour/shape/background combinations (`score.held_out`) never appear in training.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lora_core.starter.patterns import training_picture
from lora_core.starter.score import held_out
from lora_core.starter.tokens import build_tokenizer
from lora_core.starter.world import Picture, Scene, draw, random_scene

SIZE = 64  # pixels
LATENT_CHANNELS = 12
LATENT_POOL = 12_000  # drawings encoded once for the UNet
SHAPES_OF_BATCH = ((64, 64), (64, 64), (64, 64), (64, 64), (64, 64), (48, 80), (80, 48))  # width, height in pixels


def training_caption(scene: Scene, rng: np.random.Generator) -> str:
    """One of several ways to say what the scene shows; some leave out the colour or the background."""
    c, s, b = scene.colour, scene.shape, scene.background
    forms = [scene.caption] * 5 + [
        f"{c} {s}, {b} background", f"{s}, {c}, {b} background", f"a picture of a {c} {s} on {b}",
        f"{c} {s} on a {b} background", f"a {s} on a {b} background", f"a {c} {s}", f"a {s}",
    ]  # fmt: skip
    return str(rng.choice(np.array(forms)))


def build_vae(latent_channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 96), latent_channels=latent_channels, layers_per_block=1, norm_num_groups=8,
        sample_size=SIZE,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE // 8, in_channels=LATENT_CHANNELS, out_channels=LATENT_CHANNELS, cross_attention_dim=96,
        attention_head_dim=4,
        block_out_channels=(80, 112, 128), layers_per_block=1, norm_num_groups=16,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=96, intermediate_size=384, projection_dim=96, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=77, hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def noise_schedule() -> DDIMScheduler:
    """The schedule of Stable Diffusion 1.x."""
    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="epsilon",
    )  # fmt: skip


def to_tensor(pictures: list[Picture]) -> torch.Tensor:
    """RGB uint8 pictures of one size -> BCHW in -1..1."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


class Phase:
    """A resumable training phase: parameters with averaged gradients, AdamW, EMA, a cosine that decays late."""

    def __init__(
        self, name: str, modules: dict[str, torch.nn.Module], rate: float, steps: int, args: argparse.Namespace
    ):
        self.name, self.modules, self.rate, self.steps, self.args = name, modules, rate, steps, args
        self.parameters = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
        self.flat_grad = torch.zeros(sum(p.numel() for p in self.parameters), device=args.device)
        start = 0
        for p in self.parameters:
            p.grad = self.flat_grad[start : start + p.numel()].view_as(p)
            start += p.numel()
        self.optimizer = torch.optim.AdamW(self.parameters, lr=rate, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
        self.ema = [p.detach().clone() for p in self.parameters]
        self.file = Path(args.work) / f"{name}.pt"
        self.step, self.seconds = 0, 0.0
        if self.file.exists():
            self.load()

    def load(self) -> None:
        state = torch.load(self.file, map_location=self.args.device, weights_only=True)
        self.step, self.seconds, self.ema = state["step"], state["seconds"], state["ema"]
        for name, module in self.modules.items():
            module.load_state_dict(state[name])
        self.optimizer.load_state_dict(state["optimizer"])

    def save(self) -> None:
        state: dict[str, Any] = {name: module.state_dict() for name, module in self.modules.items()}
        state |= {"step": self.step, "seconds": self.seconds, "ema": self.ema, "optimizer": self.optimizer.state_dict()}
        torch.save(state, self.file.with_suffix(".tmp"))
        os.replace(self.file.with_suffix(".tmp"), self.file)

    def run(self, loss_of: Callable[[np.random.Generator, torch.Generator], torch.Tensor], rank: int) -> None:
        began, shown = time.monotonic(), 0.0
        while self.step < self.steps:
            seed = self.args.seed * 10**9 + self.step * 97 + rank
            loss = loss_of(np.random.default_rng(seed), torch.Generator(self.args.device).manual_seed(seed))
            self.update(loss)
            shown = 0.98 * shown + 0.02 * loss.item() if shown else loss.item()
            seconds = self.seconds + time.monotonic() - began
            if rank == 0 and self.step % 50 == 0:
                print(f"{self.name} {self.step}/{self.steps} loss {shown:.4f} {seconds:.0f} s", flush=True)
            if rank == 0 and (self.step % 200 == 0 or self.step == self.steps):
                began, self.seconds = time.monotonic(), seconds
                self.save()

    def update(self, loss: torch.Tensor) -> None:
        self.flat_grad.zero_()
        loss.backward()
        if dist.is_initialized():
            dist.all_reduce(self.flat_grad)
            self.flat_grad /= dist.get_world_size()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        progress = self.step / self.steps
        late_cosine = 1.0 if progress < 0.4 else 0.5 * (1 + math.cos(math.pi * (progress - 0.4) / 0.6))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * min(1, (self.step + 1) / 100) * (0.01 + 0.99 * late_cosine)
        self.optimizer.step()
        self.step += 1
        keep = min(0.998, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, [*self.parameters], 1 - keep)

    def use_ema(self) -> None:
        with torch.no_grad():
            for p, average in zip(self.parameters, self.ema, strict=True):
                p.copy_(average)


def train_vae(args: argparse.Namespace, rank: int) -> AutoencoderKL:
    """First with 8 latent channels and many patterns, then widened, with more of the toy world and smaller batches."""
    torch.manual_seed(args.seed)
    narrow = train_vae_phase("vae8", build_vae(8), 0.5, 16, args, rank)
    wide = widened(narrow, build_vae(LATENT_CHANNELS))
    return train_vae_phase("vae", wide, 0.75, 8, args, rank).requires_grad_(False).eval()


def train_vae_phase(
    name: str, vae: AutoencoderKL, toy_share: float, batch: int, args: argparse.Namespace, rank: int
) -> AutoencoderKL:
    vae.to(args.device)
    phase = Phase(name, {"vae": vae}, rate=1.5e-3, steps=getattr(args, f"{name}_steps"), args=args)

    def loss_of(rng: np.random.Generator, noise: torch.Generator) -> torch.Tensor:
        pictures = [training_picture(rng, SIZE, toy_share) for _ in range(batch // args.processes)]
        pixels_BCHW = to_tensor(pictures).to(args.device)
        posterior = vae.encode(pixels_BCHW).latent_dist
        decoded = vae.decode(posterior.sample(noise)).sample
        edges = sum((decoded.diff(dim=d) - pixels_BCHW.diff(dim=d)).abs().mean() for d in (2, 3))
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        loss: torch.Tensor = F.l1_loss(decoded, pixels_BCHW) + F.mse_loss(decoded, pixels_BCHW) + edges + 3e-4 * kl
        return loss

    phase.run(loss_of, rank)
    phase.use_ema()
    return vae


@torch.no_grad()
def widened(narrow: AutoencoderKL, wide: AutoencoderKL) -> AutoencoderKL:
    """Copy every weight; where the latent channels grew, the old keep theirs and the new start as they are."""
    few, many = narrow.config.latent_channels, wide.config.latent_channels
    # Encoder output and quant_conv hold means, then log-variances; the new means and variances go behind each half.
    rows = torch.tensor([*range(few), *range(many, many + few)])
    for (name, old), new in zip(narrow.named_parameters(), wide.parameters(), strict=True):
        if old.shape == new.shape:
            new.copy_(old)
            continue
        is_decoder = name.startswith(("post_quant", "decoder"))
        outputs = torch.arange(old.shape[0]) if is_decoder else rows
        if old.dim() == 1:
            new[outputs] = old
            continue
        inputs = rows if name.startswith("quant_conv") else torch.arange(old.shape[1])
        new[outputs[:, None], inputs[None, :]] = old
    return wide


def encoded_world(
    vae: AutoencoderKL, args: argparse.Namespace
) -> Iterator[tuple[list[Scene], torch.Tensor, torch.Tensor]]:
    """Drawings of the training combinations as (scenes, latent means_NCHW, latent stds_NCHW), one group per format."""
    rng = np.random.default_rng(args.seed + 1)
    for width, height in dict.fromkeys(SHAPES_OF_BATCH):
        wanted = LATENT_POOL * SHAPES_OF_BATCH.count((width, height)) // len(SHAPES_OF_BATCH)
        scenes: list[Scene] = []
        while len(scenes) < wanted:
            scene = random_scene(rng)
            if not held_out(scene):
                scenes.append(scene)
        means, stds = [], []
        with torch.no_grad():
            for start in range(0, wanted, 50):
                pictures = [draw(s, width, height, rng) for s in scenes[start : start + 50]]
                posterior = vae.encode(to_tensor(pictures).to(args.device)).latent_dist
                means.append(posterior.mean)
                stds.append(posterior.std)
        yield scenes, torch.cat(means), torch.cat(stds)


def train_unet(args: argparse.Namespace, rank: int, vae: AutoencoderKL) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    torch.manual_seed(args.seed + 2)
    tokenizer = build_tokenizer()
    unet, text_encoder = build_unet().to(args.device), build_text_encoder(tokenizer).to(args.device)
    phase = Phase("unet", {"unet": unet, "text_encoder": text_encoder}, rate=1.6e-3, steps=args.unet_steps, args=args)
    groups = list(encoded_world(vae, args))
    scale = vae.config.scaling_factor
    scheduler = noise_schedule()
    alphas_cumprod = scheduler.alphas_cumprod.to(args.device)
    batch = args.unet_batch // args.processes

    def loss_of(rng: np.random.Generator, noise: torch.Generator) -> torch.Tensor:
        # Every process draws the same format for a step, so that none waits for a larger one.
        form = SHAPES_OF_BATCH[np.random.default_rng(phase.step).integers(len(SHAPES_OF_BATCH))]
        scenes, means, stds = groups[list(dict.fromkeys(SHAPES_OF_BATCH)).index(form)]
        chosen = rng.integers(len(scenes), size=batch)
        captions = ["" if rng.random() < 0.1 else training_caption(scenes[i], rng) for i in chosen]
        tokens = tokenizer(
            captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        z = torch.randn(stds[chosen].shape, generator=noise, device=args.device)
        latents_BCHW = (means[chosen] + stds[chosen] * z) * scale
        eps = torch.randn(latents_BCHW.shape, generator=noise, device=args.device)
        timesteps = torch.randint(1000, (batch,), generator=noise, device=args.device)
        noisy_latents = scheduler.add_noise(latents_BCHW, eps, timesteps)
        predicted = unet(noisy_latents, timesteps, text_encoder(tokens.to(args.device))[0]).sample
        snr = alphas_cumprod[timesteps] / (1 - alphas_cumprod[timesteps])
        weight = snr.clamp(max=5) / snr  # min-SNR-5, Hang et al. 2023
        loss: torch.Tensor = (weight * (predicted - eps).square().mean(dim=(1, 2, 3))).mean()
        return loss

    phase.run(loss_of, rank)
    phase.use_ema()
    return unet.eval(), text_encoder.eval()


def set_latent_scale(vae: AutoencoderKL, args: argparse.Namespace) -> None:
    """Latents times `scaling_factor` have a standard deviation of one over the toy world (LDM, appendix G)."""
    rng = np.random.default_rng(args.seed + 3)
    pictures = to_tensor([draw(random_scene(rng), SIZE, rng=rng) for _ in range(400)]).to(args.device)
    with torch.no_grad():
        latents = vae.encode(pictures).latent_dist.mean
    vae.register_to_config(scaling_factor=round(1 / float(latents.std()), 5))


def worker(rank: int, args: argparse.Namespace) -> None:
    if args.processes > 1:
        torch.set_num_threads(1)
        dist.init_process_group(
            "gloo", init_method=f"file://{args.work}/rendezvous", rank=rank, world_size=args.processes
        )
    vae = train_vae(args, rank)
    set_latent_scale(vae, args)
    if rank == 0:
        vae.save_pretrained(Path(args.work) / "vae")
    unet, text_encoder = train_unet(args, rank, vae)
    if rank == 0:
        save(args, vae, unet, text_encoder)


def save(args: argparse.Namespace, vae: AutoencoderKL, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
    """The whole pipeline in fp16, as `StableDiffusionPipeline` loads it."""
    pipeline: Any = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=build_tokenizer(), unet=unet, scheduler=noise_schedule(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.to(dtype=torch.float16).save_pretrained(args.out, safe_serialization=True)
    seconds = {
        name: round(torch.load(Path(args.work) / f"{name}.pt", map_location="cpu", weights_only=True)["seconds"])
        for name in ("vae8", "vae", "unet")
    }
    size = sum(f.stat().st_size for f in Path(args.out).rglob("*") if f.is_file())
    print(json.dumps({"seconds": seconds, "bytes": size, "seed": args.seed}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", default="starter_work", help="checkpoints, to continue after an interruption")
    parser.add_argument("--out", default=str(Path(__file__).parent / "model"), help="where the finished model goes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vae8_steps", type=int, default=2200)
    parser.add_argument("--vae_steps", type=int, default=2400)
    parser.add_argument("--unet_steps", type=int, default=2400)
    parser.add_argument("--unet_batch", type=int, default=64)
    parser.add_argument("--processes", type=int, default=1 if torch.cuda.is_available() else 2)
    args = parser.parse_args()
    args.device = "cuda" if torch.cuda.is_available() else "cpu"
    args.work = str(Path(args.work).resolve())
    Path(args.work).mkdir(parents=True, exist_ok=True)
    Path(args.work, "rendezvous").unlink(missing_ok=True)
    if args.processes > 1:
        spawn(worker, args=(args,), nprocs=args.processes)
    else:
        worker(0, args)


if __name__ == "__main__":
    main()
