"""`formats`: what number formats are, and what of a model's weights and activations they can hold."""

from decodedrift.experiments.base import Experiment, later
from decodedrift.experiments.formats.settings import FormatsSettings

HERE = "experiments.formats"
EXPERIMENT = Experiment(
    name="formats",
    about="What number formats can hold: of a number that is given, or of a model (--model), module by module.",
    settings=FormatsSettings,
    tables=("tensors", "roundings", "binades", "timings", "failures"),
    folds=later(f"{HERE}.folds:folds"),
    execute=later(f"{HERE}.job:execute"),
    verdict=later(f"{HERE}.verdict:verdict"),
    sections=later(f"{HERE}.sections:sections"),
    title=later(f"{HERE}.sections:title"),
    shown=later(f"{HERE}.table:overview"),
    gating=later(f"{HERE}.table:gating"),
    table=later(f"{HERE}.table:table"),
    brief=later(f"{HERE}.table:brief"),
    case=later(f"{HERE}.table:case"),
    heat=later(f"{HERE}.table:heat"),
    plots=later(f"{HERE}.figures:plots"),
    plain=later(f"{HERE}.spelling:plain"),
    examples=(
        "decodedrift formats 0.1 65504 1e-8",
        "decodedrift formats --model gpt2 --formats fp16,fp8-e4m3:scale=none",
    ),
)
