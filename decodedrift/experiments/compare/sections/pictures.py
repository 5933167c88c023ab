"""The sections that are figures: each names its figures and says what to see in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from decodedrift.experiments.compare.figures import FIGURES

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study
    from decodedrift.report.html import Options


@dataclass(frozen=True)
class Pictures:
    """Figures that share a switch and a legend. lead: formatted with the plan; captions: by the figure's name."""

    heading: str
    lead: str
    captions: dict[str, str]

    def __call__(self, study: Study, options: Options) -> dict[str, Any] | None:
        """What the template needs; None where there is no figure."""
        plots = {name: FIGURES[name](study, texts=options.texts).figure() for name in self.captions}
        figures = {name: (self.captions[name], figure) for name, figure in plots.items() if figure is not None}
        if not figures:
            return None
        choices = dict.fromkeys(choice for _, figure in figures.values() for choice in figure.choices)
        entries = {entry[3]: entry for _, figure in figures.values() for entry in figure.entries}
        lead = self.lead.format_map({"near_tie_below": 0.1, **study.plan})
        return {"heading": self.heading, "lead": lead, "template": "figures.html.j2", "figures": figures,
                "choices": list(choices), "entries": list(entries.values())}  # fmt: skip


survival = Pictures(
    "How long the texts stay equal",
    "The share of traces whose every token so far equals the reference's; one that ended with it stays equal. The "
    "bands are 95 % intervals; the numbers below count the traces that could still part.",
    {"survival": "Share of texts still equal"},
)
comparisons = Pictures(
    "",
    "Two candidates read the same prompts, so they are compared text by text: the bar to the left counts those that "
    "the first named left earlier, to the right the second. p is the chance of so uneven a count were both alike, "
    "not adjusted for the number of pairs.",
    {"comparisons": "Which of two candidates leaves first"},
)
growth = Pictures(
    "How the error grows",
    "Both sides read the reference's tokens, so what is seen here is numerical error and no consequence of another "
    "text. Dotted: the same type in another batch layout, the noise floor (a value of 0 has no place on a "
    "logarithmic axis).",
    {"kl": "KL divergence by position", "gap": "Logit gap by position: median, and 10 % to 90 % of the traces"},
)
reasons = Pictures(
    "Why tokens flip",
    "A token flips where the error exceeds the margin. Where the curves of the divergences lie far to the left of "
    "the grey one, it is near-ties that flip.",
    {"margins": "The reference's margin, best score minus the next: everywhere, and at divergences"},
)
gaps = Pictures(
    "",
    "Left of the dotted line the reference's choice was close: its gap is below {near_tie_below:g} nats; where it "
    "samples, the noise of the draw is part of the gap. No point lies below the dashed one, where the error just "
    "sufficed. A click opens the case.",
    {"gaps": "Each first divergence: the reference's gap, and the error that turned it"},
)
calibration = Pictures(
    "Can flips be foretold?",
    "The flip law gives every token a chance to flip, from the reference's margin and from the errors seen on other "
    "prompts. On the dashed line what it foretells comes true; below it fewer flip. A triangle: none flipped, the "
    "share is below its upper end.",
    {"calibration": "Predicted chance of a flip, and the share that flipped"},
)
perplexity = Pictures(
    "Perplexity",
    "How much likelier or less likely the candidate finds the same tokens than {reference[name]} does: given texts, "
    "and the reference's own continuations.",
    {"perplexity": "Right of 0 the candidate is the worse reader"},
)
after = Pictures(
    "After the first divergence",
    "Tokens equal at the same index after texts have parted; a shift by one token counts as different here, the "
    "token view aligns them.",
    {"after": "Agreement by lag"},
)
decomposition = Pictures(
    "Does the error compound?",
    "Left: both read the reference's text, the candidate once on the reference's state and once on its own. Right: "
    "after texts have parted, both read the candidate's text and the reference's. Above 1, the dashed line, what "
    "came before makes the error larger.",
    {"state": "State: logit error on its own cache over that on the reference's",
     "path": "Path: KL on the candidate's text over that on the reference's"},
)  # fmt: skip
