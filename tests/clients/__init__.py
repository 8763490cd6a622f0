"""What the programs that load a LoRA read: their rules, from the names in a file to the modules of a model.

Written from the public behaviour of each program, on module trees of its own naming, so that our names are proven
against something that does not use them.
"""
