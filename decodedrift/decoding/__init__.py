"""How tokens are chosen and read: the loop, its choosers, beam search, warping, teacher forcing, batches, the spool.

Here belongs what looks at one variant. What holds two against each other belongs in measure.
"""
