"""What Treino asks of the operating system and of files, whatever is in them; nothing here knows of Stable Diffusion.

    distributed     the process group of a training that `accelerate launch` started several times
    file_names      names that every system takes for a file, and the next one that is free
    files           files that are whole or absent, alone and several together; memo files, stamps, free space
    hardware        processor, cores and versions of drivers, without torch
    keep_awake      no sleep while a training runs, and when there would be
    paths           the user's folders for settings and for what can be made again
    quick_import    importing torch and its kin without a second for the garbage collector
    recycle_bin     Windows' recycle bin: put in, and find again
    redact          texts without the passwords and tokens that addresses and errors quote
    signals         Ctrl-C and its kin: once in good order, twice at once
    tensor_headers  names and shapes of the tensors in safetensors files and pickles, without reading the tensors
    trash           delete to the system's trash, and bring back
    units           bytes, times and speeds as people read them
    windows         what only Windows has: the page file, long paths, files in the cloud, read-only marks
"""
