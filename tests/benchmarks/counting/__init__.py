"""Counts what trainings keep in memory and compute, for `counts.json`, which the estimates of the product only read.

op_counter    follows every tensor and operation of a block on the meta device
meta_session  sessions of one empty picture, of a model without memory or of a real one
count         the training step, drawing, and what prepares a training, each counted once
shipped       which graphs come with Treino, and how their file is written
"""
