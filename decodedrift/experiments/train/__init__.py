"""`train`: one recipe in several precisions, side by side; how far the arms drift, and whether what they write does."""

from decodedrift.experiments.base import Experiment, later
from decodedrift.experiments.train.settings import TrainSettings

HERE = "experiments.train"
EXPERIMENT = Experiment(
    name="train",
    about="Train a model in several precisions side by side: how far they drift apart, and whether their texts do.",
    settings=TrainSettings,
    tables=("training", "arms", "digits", "timings", "failures"),
    folds=later(f"{HERE}.folds:folds"),
    check=later(f"{HERE}.job:check"),
    execute=later(f"{HERE}.job:execute"),
    forecast=later(f"{HERE}.forecast:forecast"),
    verdict=later(f"{HERE}.verdict:verdict"),
    broken=later(f"{HERE}.verdict:broken"),
    sections=later(f"{HERE}.sections:sections"),
    title=later(f"{HERE}.sections:title"),
    shown=later(f"{HERE}.texts:overview"),
    gating=later(f"{HERE}.table:gating"),
    table=later(f"{HERE}.table:table"),
    brief=later(f"{HERE}.table:brief"),
    case=later(f"{HERE}.texts:case"),
    heat=later(f"{HERE}.table:heat"),
    examples=(
        "decodedrift train --arms fp32,bf16,bf16:master=true --steps 50",
        "decodedrift train --text notes.txt --arms fp32,autocast-bf16 --lr 1e-4",
    ),
)
