"""The arithmetic of a training step that torch does not have, and what can be seen of it.

Here belong how 16-bit weights take an update (`weights.py`, `rounding.py`), the loss scale of plain fp16
(`scaling.py`), what an optimizer wants to change (`updates.py`), gradients as they pass (`watching.py`), and the
small LSTM (`lstm.py`). Optimizers, autocast and GradScaler are torch's own. Which arms a run has, its loop and its rows
are the experiment's.
"""
