"""Pure arrays in, pure arrays out: distances of logits, id sequences, shared noise, intervals, survival, the flip law.

Here belongs a formula with its source. Tensors are used by their own methods, torch is not imported; tables and words
belong above.
"""
