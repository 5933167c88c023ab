"""The metric registries: a function and a line each; a name is a column (docs/metrics.md defines it)."""

from decodedrift.measure.metrics.token import TOKEN_METRICS, LogitPair, directional_error, token_metrics
from decodedrift.measure.metrics.trace import TRACE_METRICS, TracePair

__all__ = [
    "TOKEN_METRICS",
    "TRACE_METRICS",
    "LogitPair",
    "TracePair",
    "directional_error",
    "token_metrics",
]
