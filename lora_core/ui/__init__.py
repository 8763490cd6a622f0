"""The window: the only room that imports gradio, one file per tab. `window.py` puts it together."""
