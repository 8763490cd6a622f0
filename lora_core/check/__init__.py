"""The check of this computer: what is fast and right on it, found out by trying, told in a report, and kept for trainings.

It computes with random weights of Stable Diffusion 1.5's shapes, in no more than a minute. Whatever fails is a sentence
and a slower way, never an end; what was found before stays found (`models.computer`).

bench     what every part is given: device, sizes, time, a place for findings
disk      how quick the disks of caches and runs are, and how much is free there
findings  what was found: sentences, decisions, and the report that can be sent
formats   whether numbers of 16 bits are finite and right on the device, and how quick
kept      the report of the last check, after a restart too
machine   which system, torch and devices these are, what fits the memory, page file and sleep
probe     all that is asked of torch about a device: a test plays a card by answering here
run       the parts in their order: time, progress, stopping, failures
step      the training step in its ways: plain, as a graph, recomputed, in 8 bits
threads   with how many threads a processor is the quickest
trial     a training on random weights, for the others to measure
"""
