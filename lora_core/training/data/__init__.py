"""What the training steps are fed with: which pictures come when, and their latents and embeddings.

plan             what a training will do, computed once: held-out pictures, sizes, batches, notices
caption_augment  what a caption becomes at a step: dropped, or its tags shuffled
latent_cache     pictures to latents and captions to embeddings, computed once
tensor_store     tensors on disk by content, shared by all runs, up to a limit
validation       how many pictures and timesteps the validation loss is measured on
"""
