"""Trainings on the device that `--device` names: what a processor proves to the last bit, a card has to come near."""
