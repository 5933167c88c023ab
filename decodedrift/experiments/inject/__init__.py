"""`inject`: one token of a text replaced, and where the text goes from there; drift without any numerical error."""

from decodedrift.experiments.base import Experiment, later
from decodedrift.experiments.inject.settings import InjectSettings

HERE = "experiments.inject"
EXPERIMENT = Experiment(
    name="inject",
    about="Replace one token of the model's own text and see where it goes: drift without any numerical error.",
    settings=InjectSettings,
    tables=("traces", "injection", "tokens", "timings", "failures"),
    folds=later(f"{HERE}.verdict:folds"),
    check=later(f"{HERE}.job:check"),
    execute=later(f"{HERE}.job:execute"),
    verdict=later(f"{HERE}.verdict:verdict"),
    sections=later(f"{HERE}.sections:sections"),
    title=later(f"{HERE}.sections:title"),
    shown=later(f"{HERE}.texts:overview"),
    gating=later(f"{HERE}.verdict:gating"),
    table=later(f"{HERE}.table:table"),
    brief=later(f"{HERE}.table:brief"),
    case=later(f"{HERE}.texts:case"),
    heat=later(f"{HERE}.table:heat"),
    examples=(
        "decodedrift inject --at 5,20 --max-new-tokens 100",
        'decodedrift inject --model gpt2 --prompt "The ship" --rank 3',
    ),
)
