"""The sections that are figures: each names its table's figures and says what to see in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from decodedrift.experiments.compare import figures
from decodedrift.experiments.compare.figures import Figure

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study
    from decodedrift.report.html import Options


def survival(study: Study, options: Options) -> dict[str, Any] | None:
    """How long the texts stay equal."""
    return group("How long the texts stay equal", "The share of traces whose every token so far equals the "
                 "reference's. The bands "
                 "are 95 % intervals; the numbers below count the traces that could still part.", {
                     "survival": ("Survival until the first divergence", figures.survival(study)),
                 })  # fmt: skip


def comparisons(study: Study, options: Options) -> dict[str, Any] | None:
    """Which candidate leaves first, pair by pair."""
    return group("", "Two candidates read the same prompts, so they are compared text by text: the bar to the left "
                 "counts those that the first named left earlier, to the right the second. p is the chance of so "
                 "uneven a count were both alike, not adjusted for the number of pairs.", {
                     "comparisons": ("Which of two candidates leaves first", figures.comparisons(study)),
                 })  # fmt: skip


def growth(study: Study, options: Options) -> dict[str, Any] | None:
    """How the error behaves along the text, before any token differs."""
    return group("How the error grows", "Both sides read the reference's tokens, so what is seen here is "
                 "numerical error and no consequence of another text. Dotted: the same type in another batch "
                 "layout, the noise floor (a value of 0 has no place on a logarithmic axis).", {
                     "kl": ("KL divergence by position", figures.kl(study)),
                     "gap": ("Logit gap by position: median, and 10 % to 90 % of the traces", figures.gap(study)),
                 })  # fmt: skip


def reasons(study: Study, options: Options) -> dict[str, Any] | None:
    """Why tokens flip: the margins they flip at."""
    return group("Why tokens flip", "A token flips where the error exceeds the margin. Where the curves of the "
                 "divergences lie far to the left of the grey one, it is near-ties that flip.", {
                     "margins": ("The reference's margin, best score minus the next: everywhere, and at divergences",
                                 figures.margins(study)),
                 })  # fmt: skip


def gaps(study: Study, options: Options) -> dict[str, Any] | None:
    """How large the error was that turned each choice."""
    below = study.plan.get("near_tie_below", 0.1)
    return group("", "Left of the dotted line the reference all but tied: its gap is "
                 f"below {below:g} nats. No point lies below the dashed one, where the error just sufficed. "
                 "A click opens the case.", {
                     "gaps": ("Each first divergence: the reference's gap, and the error that turned it",
                              figures.gaps(study, texts=options.texts)),
                 })  # fmt: skip


def calibration(study: Study, options: Options) -> dict[str, Any] | None:
    """Whether the flip law's chances came true."""
    return group("Can flips be foretold?", "The flip law gives every token a chance to flip, from the reference's "
                 "margin and from the errors seen on other prompts. On the dashed line what it foretells comes "
                 "true; below it fewer flip. A triangle: none flipped, the share is below its upper end.", {
                     "calibration": ("Predicted chance of a flip, and the share that flipped",
                                     figures.calibration(study)),
                 })  # fmt: skip


def after(study: Study, options: Options) -> dict[str, Any] | None:
    """What is left in common once texts have parted."""
    return group("After the first divergence", "Tokens equal at the same index after texts have parted; a shift by one "
                 "token counts as different here, the token view aligns them.", {
                     "after": ("Agreement by lag", figures.after(study)),
                 })  # fmt: skip


def decomposition(study: Study, options: Options) -> dict[str, Any] | None:
    """How much of the error is made afresh, and how much is carried along."""
    return group("Does the error compound?", "Left: both read the reference's text, the candidate once on the "
                 "reference's state and once on its own. Right: after texts have parted, both read the candidate's "
                 "text and the reference's. Above 1, the dashed line, what came before makes the error larger.", {
                     "state": ("State: logit error on its own cache over that on the reference's",
                               figures.decomposition(study, "state")),
                     "path": ("Path: KL on the candidate's text over that on the reference's",
                              figures.decomposition(study, "path")),
                 })  # fmt: skip


def group(heading: str, lead: str, found: dict[str, tuple[str, Figure | None]]) -> dict[str, Any] | None:
    """Figures that share a switch and a legend; None where there is none."""
    held = {name: (caption, figure) for name, (caption, figure) in found.items() if figure is not None}
    if not held:
        return None
    choices: list[str] = []
    entries: dict[str, tuple[str, str, str, str]] = {}
    for _, figure in held.values():
        choices += [c for c in figure.choices if c not in choices]
        entries |= {entry[3]: entry for entry in figure.entries}
    return {"heading": heading, "lead": lead, "template": "figures.html.j2", "figures": held, "choices": choices,
            "entries": list(entries.values())}  # fmt: skip
