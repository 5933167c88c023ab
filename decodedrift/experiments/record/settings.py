"""What `record` can be asked beside what every experiment can."""

from __future__ import annotations

from typing import Any, ClassVar

from decodedrift.core.records import InputError
from decodedrift.core.settings import DECODING, WHAT, Option, Settings, Whole, option
from decodedrift.decoding.tops import COUNT

NO_OPTIONS = ("no_text", "executor", "prompts_per_job")  # a recording is its texts, made in one process


class RecordSettings(Settings):
    """Everything `record` can be asked. runs: how often each (strategy, seed, prompt) is asked for."""

    experiment: ClassVar[str] = "record"

    reference: Any = option("fp32", "How the model is executed.", WHAT, "VARIANT", flag="variant")
    strategies: Any = option(("greedy",), "Such as greedy,top-p:p=0.9.", DECODING, "LIST", many=True)
    runs: Whole = option(1, "How often each text is asked for.", DECODING, "N", label="Repetitions")

    @property
    def manner(self) -> str:
        """What is done with the model."""
        return "recording "

    @classmethod
    def options(cls) -> dict[str, Option]:
        """Every field that can be asked for, by name."""
        return {name: option for name, option in super().options().items() if name not in NO_OPTIONS}
