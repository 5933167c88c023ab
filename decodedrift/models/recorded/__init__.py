"""What another engine wrote: read from a file, matched with the prompts of a run, or recorded from a model or endpoint.

No torch is imported here, and nothing is measured: what a reference makes of a recorded text lies in `measure/` and
`experiments/`.
"""
