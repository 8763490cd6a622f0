"""Treino's core: pictures and captions in, a trained LoRA out. Importing it loads nothing heavy."""

import os

__version__ = "0.1.0"

# The libraries read these when they are imported: nothing phones home, and what they print is not for our users.
for _name, _value in {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}.items():
    os.environ.setdefault(_name, _value)
