"""What `record` can be asked beside what every experiment can."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator

from decodedrift.core.endpoint import EndpointSettings
from decodedrift.core.notation import one_of
from decodedrift.core.options import DECODING, ENDPOINT, WHAT, Option, option
from decodedrift.core.records import InputError
from decodedrift.core.settings import Whole
from decodedrift.models.knobs import COARSER

NO_OPTIONS = ("no_text", "executor", "ray_address", "shard", "workers")  # a recording is its texts, made in one process

HERE = (  # what an endpoint has settled by itself
    "revision", "reference", "batch_size", "prompts_per_job", "layout", "coupling", "device", "device_map", "threads",
    "memory_bytes", "trust_remote_code", "allow_pickle",
)  # fmt: skip


class RecordSettings(EndpointSettings):
    """Everything `record` can be asked. runs: how often each (strategy, seed, prompt) is asked for."""

    experiment: ClassVar[str] = "record"

    reference: Any = option("fp32", "How the model is executed.", WHAT, "VARIANT", flag="variant")
    strategies: Any = option(("greedy",), "Such as greedy,top-p:p=0.9.", DECODING, "LIST", many=True)
    runs: Whole = option(1, "How often each text is asked for.", DECODING, "N", label="Repetitions")

    endpoint: str | None = option(
        None, "Record what this serves under --model: http://127.0.0.1:8000/v1.", ENDPOINT, "URL"
    )
    precision: Annotated[str, BeforeValidator(one_of(*reversed(COARSER)))] | None = option(
        None, "What the endpoint is said to compute in, such as bf16.", ENDPOINT, "TYPE"
    )

    def check(self) -> None:
        """What is of a local model alone is not asked of an endpoint, and the other way round."""
        if self.endpoint is None:
            said = ["--precision"] if self.precision is not None else []
            for flag in (*said, *self.given_to_endpoints()):
                raise InputError(f"{flag} is of an endpoint: leave it out, or add --endpoint URL")
            return
        for name in HERE:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise InputError(f"{self.flag(name)} is of a model that runs here: leave it or --endpoint out")
        if "model" not in self.model_fields_set:
            raise InputError("--endpoint: name the model that it serves with --model")

    @property
    def manner(self) -> str:
        """What is done with the model."""
        return "recording "

    @classmethod
    def options(cls) -> dict[str, Option]:
        """Every field that can be asked for, by name."""
        return {name: option for name, option in super().options().items() if name not in NO_OPTIONS}
