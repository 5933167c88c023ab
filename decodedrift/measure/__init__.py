"""Two sides held against each other: metrics, passes, divergences, and the schema of every table.

Here belongs what leaves rows, and what two experiments need. Folds and sentences belong to an experiment.
"""
