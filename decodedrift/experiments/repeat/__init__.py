"""`repeat`: one prompt, many completions, one thing that varies; how many different texts come of it."""

from decodedrift.experiments.base import Experiment, later
from decodedrift.experiments.repeat.settings import RepeatSettings

HERE = "experiments.repeat"
EXPERIMENT = Experiment(
    name="repeat",
    about="Ask the same prompt again and again: what makes the answers differ, and how many different ones come of it.",
    settings=RepeatSettings,
    tables=("repeats", "spread", "routing", "tokens", "timings", "failures"),
    folds=later(f"{HERE}.folds:folds"),
    check=later(f"{HERE}.job:check"),
    execute=later(f"{HERE}.job:execute"),
    verdict=later(f"{HERE}.verdict:verdict"),
    broken=later(f"{HERE}.verdict:broken"),
    sections=later(f"{HERE}.sections:sections"),
    title=later(f"{HERE}.sections:title"),
    shown=later(f"{HERE}.texts:overview"),
    gating=later(f"{HERE}.table:gating"),
    table=later(f"{HERE}.table:table"),
    brief=later(f"{HERE}.table:brief"),
    plots=later(f"{HERE}.figures:Plots"),
    case=later(f"{HERE}.texts:case"),
    heat=later(f"{HERE}.table:heat"),
    examples=(
        "decodedrift repeat --runs 30 --candidates bf16 --max-new-tokens 128",
        "decodedrift repeat --vary rerun,companions --fail-on 'unique>1'",
    ),
)
