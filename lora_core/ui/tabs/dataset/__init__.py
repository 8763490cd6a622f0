"""The Dataset tab: pictures and captions of a folder, seen, described and mended.

tab      its part of a page; assets/dataset.js draws the rest
routes   what the script asks for, as JSON
bodies   the bodies of what it asks for
uploads  dropped files, kept aside until all are there
"""
