"""A VAE that works on tiles, where a whole picture does not fit its device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TILE = 64  # latent pixels; divisible by four, for a quarter of it overlaps


@contextmanager
def in_tiles(vae: Any, wanted: bool = True) -> Iterator[None]:
    """Within the block the VAE encodes and decodes in tiles that overlap, if `wanted`.

    Each tile has its own brightness, as the VAE normalises over what it sees; where tiles overlap they are blended.
    """
    kept = vae.tile_latent_min_size, vae.tile_sample_min_size, vae.use_tiling
    if wanted:
        pixels_per_latent = 2 ** (len(vae.config.block_out_channels) - 1)
        vae.tile_latent_min_size, vae.tile_sample_min_size, vae.use_tiling = TILE, TILE * pixels_per_latent, True
    try:
        yield
    finally:
        vae.tile_latent_min_size, vae.tile_sample_min_size, vae.use_tiling = kept
