"""What `train` can be asked beside what every experiment can."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, field_validator

from decodedrift.core.estimate import Effort
from decodedrift.core.notation import number, one_of, whole
from decodedrift.core.options import MACHINE, MEASURING, PROMPTS, WHAT, option
from decodedrift.core.prompts import PROSE, STORY, bundled_text
from decodedrift.core.records import InputError, Job, Text, distinct
from decodedrift.core.settings import Seed, Settings, Whole, files
from decodedrift.experiments.train.arms import DEFAULT, FP32, Arm, parse_arms, with_controls

ADAMW, SGD = "adamw", "sgd"
OPTIMIZERS = {ADAMW: "torch.optim.AdamW", SGD: "torch.optim.SGD, without momentum"}
Rate = Annotated[float, BeforeValidator(number(0, 1e6, open_low=True))]
Context = Annotated[int, BeforeValidator(whole(2, 2**20))]


def clipping(value: Any) -> float | None:
    """A norm, or none."""
    return None if value in (None, "none") else number(0, 1e30, open_low=True)(value)


class TrainSettings(Settings):
    """Everything `train` can be asked. arms: labels of `arms.parse_arms`; texts: files, or {name, text}."""

    experiment: ClassVar[str] = "train"
    scores_texts: ClassVar[bool] = False
    finer: ClassVar[str] = "name more --seeds, a job each"
    lowers_batch: ClassVar[bool] = False

    model: Any = option("demo", "demo, a folder or a hub id; with --from-scratch a config.json too.", WHAT, "NAME")
    reference: Any = FP32
    layout: str = "mixed"
    device_map: str | None = None
    coupling: str = "gumbel"
    prompts_per_job: Whole | None = None
    arms: list[str] = option(
        list(DEFAULT), "fp64, fp32, bf16, fp16, autocast-bf16, autocast-fp16; with :master=true, :loss_scale=dynamic, "
        ":rounding=stochastic.", WHAT, "LIST", many=True, label="Arms", says=",".join(DEFAULT),
    )  # fmt: skip
    reference_arm: str | None = option(
        None, "The arm that distances are from.", WHAT, "ARM", flag="reference", says="the first", label="Reference arm"
    )
    steps: Whole = option(100, "Steps of the optimizer.", WHAT, "N", label="Steps")
    optimizer: Annotated[str, BeforeValidator(one_of(*OPTIMIZERS))] = option(
        ADAMW, "adamw, or sgd without momentum; torch's own.", WHAT, "NAME", label="Optimizer", words=OPTIMIZERS
    )
    lr: Rate = option(3e-4, "Learning rate.", WHAT, "NUMBER", label="Learning rate")
    clip: Annotated[Any, BeforeValidator(clipping)] = option(
        1.0, "Norm that gradients are clipped to, or none.", WHAT, "NORM", label="Gradients clipped to a norm of"
    )
    batch_size: Whole = option(4, "Sequences of a batch.", WHAT, "N", label="Sequences of a batch")
    context: Context = option(64, "Tokens of a sequence.", WHAT, "N", label="Tokens of a sequence")
    accumulate: Whole = option(1, "Batches whose gradients make a step.", WHAT, "N", label="Batches of a step")
    from_scratch: bool = option(False, "Begin from weights drawn anew, by the seed.", WHAT, label="Weights drawn anew")
    seeds: list[Seed] = option([0], "Of the order of the data, a training each: 0,1,2.", WHAT, "LIST", many=True)
    texts: Any = option(
        (), "A text to learn; repeatable.", PROMPTS, "FILE", flag="text", many=True, read=files, says="two bundled ones"
    )
    strategies: Any = option(
        ("greedy",), "What the trained arms write with.", "Decoding", "LIST", many=True, says="greedy"
    )
    controls: bool = option(True, "Train the butterfly, another order and fp32 again.", MEASURING, label="Controls")
    compare: bool = option(True, "Compare what the trained arms write.", MEASURING, label="Trained arms compared")
    keep_checkpoints: bool = option(
        False, "Keep what each arm became, as folders.", MEASURING, label="Checkpoints kept"
    )
    lstm: bool = option(False, "Train a small LSTM in fp64 and fp32 too.", MEASURING, label="LSTM trained too")
    every: Whole = option(
        25, "Steps that a kill can lose.", MACHINE, "N", rare=True, flag="save-every", changes_rows=False,
        label="Steps that a kill can lose",
    )  # fmt: skip

    @field_validator("arms", mode="before")
    @classmethod
    def _arms(cls, value: Any) -> Any:
        if not isinstance(value, (str, list, tuple)) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"must be names of arms, not {value!r}")
        if not (arms := parse_arms(value)):
            raise ValueError("give at least one")
        return [arm.label for arm in arms]

    def check(self) -> None:
        """Arms are distinct, the reference is one of them."""
        distinct("arms", self.arms)
        if self.reference_arm is not None and self.reference_arm not in self.arms:
            raise InputError(f"--reference {self.reference_arm}: is none of the arms; choices: {', '.join(self.arms)}")

    def check_resolved(self) -> None:
        """Texts have names of their own."""
        super().check_resolved()
        distinct("texts", [text.name for text in self.texts])

    def standard_texts(self) -> tuple[Text, ...]:
        """The bundled texts."""
        return bundled_text(STORY), bundled_text(PROSE)

    def shards(self) -> list[Job]:
        """A job for each seed, with all arms."""
        return [Job("", 0, self.prompts) for _ in self.seeds]

    @property
    def only_rows(self) -> bool:
        """Checkpoints and a comparison of them come beside the rows."""
        return False

    @property
    def every_arm(self) -> list[Arm]:
        """The arms and controls in the order in which each step runs them: the reference arm first."""
        arms = parse_arms(self.arms)
        arms = with_controls(arms) if self.controls else arms
        return sorted(arms, key=lambda arm: arm.label != self.reference_label)

    @property
    def reference_label(self) -> str:
        """The arm that distances are from."""
        return self.reference_arm or str(self.arms[0])

    @property
    def sequences(self) -> int:
        """Of one step."""
        return int(self.batch_size) * int(self.accumulate)

    @property
    def manner(self) -> str:
        """The arms, and how long."""
        size = f"{self.steps} steps of {self.sequences} x {self.context} tokens"
        return (
            f"training {', '.join(arm.label for arm in self.every_arm)} for {size}, then comparing what they became: "
        )

    @property
    def effort(self) -> Effort:
        """Tokens that are trained on; and the texts that are written after."""
        tokens = int(self.steps) * self.sequences * int(self.context) * len(self.seeds)
        arms = len(self.every_arm)
        return Effort(writing=arms * len(self.seeds) * self.compare, trained=tokens * arms)
