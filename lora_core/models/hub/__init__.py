"""The Hugging Face hub, or a mirror of it: models come from there into the cache that all its tools share.

    client    a model or named files by their id; from the cache alone where it is complete
    download  one file, resumed after a kill and verified
    errors    what goes wrong on the way, as one sentence with the fix
    layout    which files of a repository are needed, from their names alone
"""
