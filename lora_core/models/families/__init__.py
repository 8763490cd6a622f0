"""Model families as values. Nobody outside this folder asks which family a model is; they call its functions.

Adding a family is its spec, one file with plain functions, and one name in `registry`.

    base        the types: a family, a base model of it, what it is conditioned on
    components  UNet, VAE, text encoders, tokenizer and schedule from a diffusers folder
    registry    the family of a UNet
    text        captions as token ids, in parts of 75 where they are longer; those of a batch side by side
    specs       what is known of each family without a model: titles, sizes, names in files and on the hub
    sd1         Stable Diffusion 1.x, and the starter
    sd2         Stable Diffusion 2.x
    sdxl        Stable Diffusion XL
"""
