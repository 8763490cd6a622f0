"""LoRA files as values: read in every key format of the field, checked, converted, and put onto models.

adapter           a LoRA: one adapter per module
adapter_settings  the settings of a training whose adapters are those of a file
convert           any program's LoRA as a file that every webui loads
dialects          what the programs of the field call the tensors
dora              DoRA over the input axis, as webuis compute it
file              the LoRA file: reading, writing, its hashes
lycoris           LoHa and LoKr as LyCORIS writes them
metadata          what a LoRA file says about itself
peft_layers       between PEFT's layers in a model and our values
resize            a layer's change at another rank
shapes            what the shapes tell: family, layout, whether it fits
summary           what is known of a LoRA file, read once
"""
