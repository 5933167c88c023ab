"""The frame of every experiment: settings, refusals before weights load, jobs, executors, run folder, resume, gates.

Here belongs what does not depend on what is measured. A figure or a sentence belongs in report or in an experiment.
"""
