"""Training a LoRA: from settings and a folder of pictures to a run folder with its LoRA.

`train.py` is the page to read first; `prepare.py` says where everything on it comes from.

job         one training in a thread, from its settings to its end
controls    what a person asks of it: pause, go on, stop, sample now, save now
event_log   its run folder, taken, and every event written and passed on
prepare     load the base model, encode the dataset, adapt the model, build the session
session     all that a training holds from its first step to its last
train       the loop, a step, and the maths
callbacks   what a run does between steps: stop, hold, validate, sample, save
diffusion   noising, targets and loss weights, under the papers' names
prior       prior preservation: the base model teaches what must stay as it is
validate    the loss that means something, on held-out pictures
progress    steps told as events; divergence and a full card noticed
checkpoint  a state that training goes on from exactly, whole or absent
outputs     what is written of a session: checkpoints, samples, the LoRA, the sheet
failures    exceptions as messages
data/       what steps are fed with
engine/     how steps are computed
optim/      optimizers, learning rates, EMA
estimate/   what a training will cost
"""
