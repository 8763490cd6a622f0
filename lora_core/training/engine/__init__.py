"""How a training step is computed: adapters on the frozen model, and ways to be faster or smaller with the same numbers.

adapters          PEFT's adapters attached, listed, taken out, switched off
init_lora         a training that begins with another LoRA: read, checked, put into the adapters
lean_activations  a frozen UNet that keeps less for its backward pass
stepper           micro-batches, and what computes their gradients: the protocol and the plain way
cuda_graphs       the same replayed from CUDA graphs, on a card
compile           the UNet's forward pass by torch.compile
"""
