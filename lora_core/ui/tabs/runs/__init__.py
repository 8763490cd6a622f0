"""The Runs tab: trainings of before.

tab      the components and what they do
views    the list and the details of one run as HTML
compare  several runs in one plot, and what differs in their settings
"""
