"""Base models: what a file or a name is, where its weights come from, and the model that they make on a device.

    architecture     the shapes of a model from its settings alone, without torch
    catalog          models that are known by name: the starter, the usual one of each family, those to suggest
    checkpoint_keys  where a weight of diffusers stands in a file of the original layout
    computer         what was proven of this computer's devices, kept until something changes
    device           which device to compute on and in which format; full memory
    families/        Stable Diffusion 1.x, 2.x and XL as values; the one place that knows what differs
    frozen_layers    layers that keep nothing for a backward pass which needs no gradient of theirs
    hub/             download from the Hugging Face hub, resumed and verified
    identify         what a file or folder is, from the names and shapes of its tensors
    int8             the frozen UNet's weights in 8 bits
    load             a model by its name: starter, file, folder or hub
    parallel         a batch in parts, each on a thread of its own
    single_file      a model from one .safetensors or .ckpt, without any network
    unet_keys        names of the UNet's blocks, original and diffusers', turned into each other
    vae_tiling       a VAE that works on tiles where a picture does not fit
    weights          one tensor at a time from a file to a device; the meta device and back
"""
