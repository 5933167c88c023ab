"""What can be asked: a folder each, on the frame of runs; `study.py` is what each of them leaves.

An experiment imports no other: what two need lies in measure or report.
"""
