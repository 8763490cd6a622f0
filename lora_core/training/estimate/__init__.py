"""What a training will cost, told before it starts: memory, disk and time. Nothing here runs a step, and only `fit` needs
torch.

counts  what steps keep and compute, counted ahead and read from `counts.json`
fit     what to say of a card or a page file that is too small
levels  levels of memory: what is kept or computed again, each with its price
memory  memory and disk of a training, and what to change where they are short
speed   seconds of a step or a run, from what was measured on this computer
"""
