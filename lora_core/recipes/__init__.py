"""Recipes: from what a person wants, the base model, the pictures and the computer to settings, each with its reason.

recipe    the settings for an intent: a pure function
intents   what can be wanted, and what of the settings is decided by that alone
facts     what a recipe looks at: base model, pictures, computer
room      what makes a recipe fit the device's memory
resolved  a preset's values, with the recipe of its intent below them
"""

from lora_core.recipes.recipe import Choice, Recipe, recipe

__all__ = ["Choice", "Recipe", "recipe"]
