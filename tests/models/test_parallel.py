"""lora_core.models.parallel: a batch in parts side by side gives what it gives whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lora_core.models import device as precision
from lora_core.models import load as base_models
from lora_core.models.parallel import LEAST, divided
from lora_core.sampling import sample
from lora_core.sampling.params import GenerationParams
from tests.support.twins import save_twin


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_pictures_drawn_in_parts_are_the_same(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = base_models.load(str(save_twin(family, tmp_path)), torch.float32, lambda event: None)
    wanted = [GenerationParams(f"a red cow, {n}", n, 64, 64, steps=2) for n in range(7)]
    found, seen = [], []
    for cores in (1, 3):
        monkeypatch.setattr(precision, "_CORES", cores)
        whole = model.unet.forward

        def forward(x: torch.Tensor, *rest: object, whole: Any = whole, **named: object) -> Any:
            seen.append(len(x))
            return whole(x, *rest, **named)

        model.unet.forward = forward
        found.append(torch.cat(list(sample.draw_latents(model, wanted))))
        assert model.unet.forward is forward, "the model is left as it was"
        model.unet.forward = whole
    assert seen[:2] == [14, 14] and sorted(seen[2:5]) == [4, 5, 5]
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-5)


def test_an_error_in_a_part_leaves_the_model_as_it_was() -> None:
    class Fails(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            raise ZeroDivisionError

    model = Fails()
    with pytest.raises(ZeroDivisionError), divided(model, 2):
        model(torch.zeros(2 * LEAST))
    with pytest.raises(ZeroDivisionError):
        model(torch.zeros(1))
