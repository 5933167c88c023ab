"""What every room speaks: records, notation, strict reading, untrusted text, files, versions, progress.

Here belongs what needs neither torch nor pandas and knows nothing of models or runs. What computes belongs in numerics.
"""
