"""Treino's core: pictures and captions in, a trained LoRA out. Importing it loads nothing heavy."""

__version__ = "0.1.0"
