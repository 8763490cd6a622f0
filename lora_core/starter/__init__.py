"""The workshop of the toy model that comes with Treino, a tool for developers: nothing of the program imports it.

make_training  draws the twelve pictures in Training/
patterns       the other pictures that its VAE learns from
score          measures the model, and LoRAs on it
tokens         its tokenizer
train_starter  its training
world          the toy world: drawing it, and reading it back
"""
