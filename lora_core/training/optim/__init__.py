"""Optimizers, the course of the learning rate, and the average of what they train.

build        optimizers and schedules by name, and the learning rate of a step
adafactor    Adafactor, the parameters of one shape together
prodigy      Prodigy, which finds its learning rate
cpu_offload  an optimizer whose state is in the computer's memory
ema          the exponential moving average of the adapters
"""
