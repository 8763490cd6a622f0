"""The tabs, one package each: its `tab.build(page)` puts its components on the page. No tab imports another.

page        what a tab is given to build itself on, and the messages between tabs
dataset     pictures and captions, seen and mended
train       settings, plan and the live run
playground  the Test tab: a LoRA tried at once
export      a LoRA into a webui, and conversion
runs        trainings of before, compared and managed
"""
