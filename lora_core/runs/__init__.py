"""Run folders on disk: what a training leaves, and what can be told of it and done with it later. Needs no torch.

    actions  rename, delete and bring back a run
    change   how far a training has moved from its base model, by its samples
    curve    losses by step, thinned out for a picture
    history  what one run's events say so far, read on as they are written
    index    every run below a folder as rows of a list
    lock     one training at a time in a folder
    run      the folder itself: settings, events, checkpoints, samples, the LoRA
    summary  what a list shows of a run
    verdict  what the validation losses mean, in one word
"""
