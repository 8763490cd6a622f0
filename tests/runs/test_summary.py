"""lora_core.runs.summary: what a list keeps of a run between two starts."""

from __future__ import annotations

import json

import pytest

from lora_core.events import Failed, Finished, Step, Validation
from lora_core.messages import Message, say
from lora_core.runs.summary import Summary


def test_a_summary_comes_back_from_json_with_its_failure_in_every_language() -> None:
    failure = Message("settings.file_missing", file="vae.safetensors")
    summary = Summary().with_event(Validation(3, 0.5, 0.4, True), 1.5).with_event(Failed(failure), 2.0)
    back = Summary.from_json(json.loads(json.dumps(summary.to_json())))
    assert back == summary and back.failure and say(back.failure, "pt-BR") != str(back.failure)


def test_a_summary_of_another_version_is_none() -> None:
    ended = Summary().with_event(Step(1, 2, 0.1, 1e-4), 1.0).with_event(Finished(1, "a.safetensors", 0), 2.0)
    stored = ended.to_json()
    for other in ({**stored, "failure": {"text": "x"}}, {**stored, "more": 1}):
        with pytest.raises((TypeError, ValueError)):
            Summary.from_json(other)
