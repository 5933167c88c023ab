"""Where weights come from: the bundled model, a folder, the hub, a model in memory; found, identified, copied.

Nothing here computes with a model but the control of a copy.
"""
