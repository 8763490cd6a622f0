"""The terminal: `treino.py` trains, describes pictures, converts and exports LoRAs, tells what a model is, and
checks this computer.

main          the door: which command is meant, what went wrong, the exit code
request       what a command line asks for: flags over preset over defaults, checked as a whole
training      a training in the terminal, from its headline to where the LoRA lies
flags         the flags of a training, made from the settings of config.py
commands      caption, check, convert, export, info: each with flags of its own
info          what a model is, line by line
plan_summary  the plan of a training, in a few lines
terminal      progress and notices on a screen, in a file or a pipe
"""
