"""Functions from tables to tables: every figure of a run's CSV files that is not a row. No words, no torch."""
