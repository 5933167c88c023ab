"""`compare`: the same prompts through a reference and its candidates, and where and how far they part."""

from decodedrift.experiments.base import Experiment, later
from decodedrift.experiments.compare.settings import CompareSettings

HERE = "experiments.compare"
EXPERIMENT = Experiment(
    name="compare",
    about="Run the same prompts through a reference and its candidates; measure where and how far they part.",
    settings=CompareSettings,
    tables=(
        "traces", "divergences", "positions", "alternatives", "recorded", "judged", "checks", "injection", "steps",
        "layers", "tokens", "timings", "failures",
    ),
    folds=later(f"{HERE}.folds:folds"),
    stored=("perplexity",),
    check=later(f"{HERE}.job:check"),
    execute=later(f"{HERE}.job:execute"),
    verdict=later(f"{HERE}.verdict.assembly:verdict"),
    folded=later(f"{HERE}.verdict.assembly:folded"),
    broken=later(f"{HERE}.verdict.assembly:broken"),
    sections=later(f"{HERE}.sections:sections"),
    title=later(f"{HERE}.sections:title"),
    beside=later(f"{HERE}.beside:beside"),
    plots=later(f"{HERE}.plots:Plots"),
    heat=later(f"{HERE}.heat:in_a_cell"),
    shown=later(f"{HERE}.screenful:screenful"),
    answers=later(f"{HERE}.verdict.answer:table"),
    gating=later(f"{HERE}.gating:gating"),
    table=later(f"{HERE}.table:table"),
    brief=later(f"{HERE}.table:brief"),
    case=later(f"{HERE}.fork:case"),
    examples=(
        "decodedrift compare --model gpt2 --candidates bf16,int8 --max-new-tokens 128",
        "decodedrift compare --model ./base --candidates q=./quantized --text w.txt",
    ),
)  # fmt: skip
