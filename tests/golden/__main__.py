"""python -m tests.golden writes the golden loss curves anew, after a change that is meant to move them."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from lora_core.events import Validation
from tests.support.tiny import tiny_dataset, tiny_model
from tests.support.training import config_for, run
from tests.support.twins import PIPELINES, curve, save_twin, train_twin
from tests.training.test_adapter_kinds import FAMILIES, KINDS, VALUES
from tests.training.test_adapter_kinds import GOLDEN as OF_KINDS
from tests.training.test_train import CURVES, GOLDEN, losses

with tempfile.TemporaryDirectory() as name:
    home = Path(name)
    os.environ["TREINO_CACHE"] = str(home / "cache")
    model, data = tiny_model(home / "model"), tiny_dataset(home / "data")
    curves = {}
    for title, values in CURVES.items():
        job, events = run(config_for(model, data, home / title, **values))
        if job.error:
            raise job.error
        curves[title] = {
            "loss": losses(events),
            "validation": [event.loss for event in events if isinstance(event, Validation)],
        }
    GOLDEN.write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")
    print(GOLDEN)
    for family in PIPELINES:
        file = GOLDEN.with_name(f"{family}.json")
        curves = curve(train_twin(family, home / family, data).events)
        file.write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")
        print(file)
    twins = {family: save_twin(family, home / "twins" / family) for family in FAMILIES}
    of_kinds: dict[str, dict[str, list[float]]] = {kind: {} for kind in KINDS}
    for kind in KINDS:
        for family, twin in twins.items():
            job, events = run(config_for(twin, data, home / kind / family, adapter=kind, **VALUES))
            if job.error:
                raise job.error
            of_kinds[kind][family] = losses(events)
    OF_KINDS.write_text(json.dumps(of_kinds, indent=1) + "\n", encoding="utf-8")
    print(OF_KINDS)
