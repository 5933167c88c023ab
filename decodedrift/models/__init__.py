"""From a name to a model that runs, with its tokens, on this machine: found, loaded, read back, called.

Here belongs all that is known of transformers and of weights, and what a run's models share (`world`). Which token is
chosen from the logits belongs in decoding.
"""
