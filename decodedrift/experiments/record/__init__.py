"""`record`: what a model or an endpoint says to prompts, written as a recorded run that `compare` takes as a side.

Nothing is measured and no run folder is left: one file of completions (`models/recorded/`).
"""
