"""What a training will cost, told before it starts: memory, disk and time, as counted or measured.

budget  what a training may take of a device: what is free, and how the check corrects what was counted
beside  what a run does beside its steps: validation, samples, caching, loading
cost    the one answer that terminal and window show
counts  what steps keep and compute, counted ahead and read from `counts.json`
disk    what a training writes
fit     whether a training fits its device, what is done about it unasked, what to change before and after it failed
ladder  what to change when memory is short, least harm first
levels  levels of memory to choose from: what is kept or computed again, each with its price
memory  device memory, as polynomials of batch, picture size and rank say
proven  what the check of this computer lets expect: seconds of a step, and whether graphs are worth it
speed   seconds of a step or a run, from what was measured on this computer
"""
