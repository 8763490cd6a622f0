"""Drawing pictures with a base model and a LoRA: samples of a training, trials in the window, grids.

batches     which pictures are drawn side by side
gallery     where trial pictures go, and what was drawn last
grid        weights, checkpoints or prompts across and down
infotext    how a picture was made, as A1111's text in its PNG
params      all that makes one picture
pipeline    a base model and a LoRA file in diffusers' pipeline, kept loaded
sample      pictures from a model as it stands, in training and out of it
samplers    samplers by A1111's names
sheet       pictures in a labelled table
"""
