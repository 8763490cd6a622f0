"""The Train tab: settings and plan before Start, then the run as it is.

tab           the components and what they do
setup         one page's form, cards and plan, and what is started with them
form          the form of all settings as HTML, and what stands in its boxes
preset_cards  the presets to choose from, and saving one
recipes       the recipe of a card for what stands in the form, and why
going_on      the LoRA to go on from: its settings, and why it cannot be
plan          what a training would do with what stands in the form
card_costs    what each card comes to with what stands in the form, counted beside
cost          memory, disk and time of that, in words
live          a run as HTML: numbers, plot, samples, notices
usual_rate    the learning rate to try when a run has hardly changed the pictures
buttons       which buttons a run offers in its state
computer_check  the check of this computer: button, progress, report, and its routes
poll          what the page asks for each second, past Gradio
"""
