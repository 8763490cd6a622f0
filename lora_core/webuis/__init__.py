"""A1111, Forge, ComfyUI and others on this computer: where they are, what lies in them, and a LoRA put into them.

base_models     base models that are on this computer already
card            the model card that is written beside an exported LoRA
detect          what webuis' folders look like, and where each keeps its models
export          a finished LoRA into a webui
loras           the LoRAs of runs and webuis
refresh         ask a running webui to read its list again
search          which folders may hold webuis, and which were chosen before
trial_defaults  what drawing with a LoRA begins with
"""
