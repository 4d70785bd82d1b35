"""Bench: studies. Cells of recipes, policies, seeds and engine settings, compared in accuracy and cost."""
