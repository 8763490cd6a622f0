"""The Export tab: a LoRA into a webui with its picture and card, and any LoRA made into one that every webui loads.

choices  what is offered: LoRAs, pictures, webuis, names
convert  the part that converts
form     the controls, and how a model card fills them
tab      the part that exports, and the tab as a whole
views    its parts as HTML
"""
