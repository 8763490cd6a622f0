"""The private environment `.venv`: made at the first start, repaired when it is not whole, never touched when it is.

Before it is there nothing is installed, so these modules need the standard library only, are read by Python 3.7 too, and
speak English.

    bootstrap     what the doors call first: go on here, or set up and start again there
    environment   the folder .venv: what is in it, whether it is whole, who sets it up right now
    other_cards   graphics cards of AMD and Intel, as the system itself knows them
    pip           installs packages and tells in a sentence what went wrong
    requirements  reads requirements.txt and finds what is not met
    torch_build   which build of PyTorch fits this computer's graphics card
"""
