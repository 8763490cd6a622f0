"""The Test tab: a LoRA tried at once, with and without it, at any weight, over checkpoints and prompts.

form   the controls, and how a LoRA or an older picture fills them
tab    the tab's events, and what is drawn
views  pictures and progress as HTML
"""
