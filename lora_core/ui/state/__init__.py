"""What the window knows beyond a page, one of each per process; no gradio, no language, no torch until it is needed.

app           all of it in one place, and what is remembered from start to start
background    work in threads of its own
training      the one training, and what is known of other runs
open_dataset  the folder of pictures that is open, read in the background, edited at once
captioning    captions that a captioner proposes
computer_check  the check of this computer, which makes way for everything else
drawing       test pictures, drawn one order at a time
lora_library  the LoRAs there are to try
"""
