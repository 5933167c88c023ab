"""The sections that are figures: each names its figures and says what to see in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from decodedrift.experiments.compare.figures import FIGURES
from decodedrift.experiments.compare.reader import as_read
from decodedrift.measure.trajectory import LEAST_PAIRS
from decodedrift.report.figures.together import together

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study
    from decodedrift.report.html import Options


@dataclass(frozen=True)
class Pictures:
    """Figures that share a switch and a legend.

    lead: formatted with the plan. captions: by the figure's name. folded: whether a click opens them.
    """

    heading: str
    lead: str
    captions: dict[str, str]
    folded: bool = False

    def __call__(self, study: Study, options: Options) -> dict[str, Any] | None:
        """What the template needs; None where there is nothing to draw or to say."""
        plots = {
            name: (as_read(text, study.plan), FIGURES[name](study, texts=options.texts))
            for name, text in self.captions.items()
        }
        floors = FLOORS if (study.divergences["role"] == "floor").any() else ""
        words = {"near_tie_below": 0.1, "least": LEAST_PAIRS, "floors": floors}
        lead = self.lead.format_map(words | dict(study.plan)).strip()
        return together(plots, self.heading, lead, self.folded)


FLOORS = "Where the line falls as the dotted one does, another batch layout alone parts as many."
survival = Pictures(
    "How long the texts stay equal",
    "The share of the answers that are still, to the word, the reference's, with its 95 % band. {floors}",
    {"survival": "Texts still equal, by word"},
)
reasons = Pictures(
    "Why tokens flip",
    "A token flips where the error exceeds the margin. Where the curves of the divergences lie far to the left of "
    "the grey one, it is near ties that flip.",
    {"margins": "The reference's margin, best score minus the next: everywhere, and at first differences"},
)
gaps = Pictures(
    "",
    "Each first difference. Left of the dotted line the gap is below {near_tie_below:g} nats: in a greedy text the two "
    "tokens were close; in a drawn one the draw is part of the gap, and only the draw need have been. On the dashed "
    "line the error just sufficed. A click opens the case.",
    {"gaps": "The {reader}'s gap, and the error that turned it"},
)
perplexity = Pictures(
    "Quality",
    "By how much worse (right of 0) or better the candidate foretells the same tokens than {reference[name]} does, on "
    "texts that neither wrote. The reference's own text (distance) was chosen by the reference's numbers and favours "
    "it as a rule, though not in every draw, whatever the candidate is worth: that ranks damage, not quality.",
    {"perplexity": "Change of perplexity"},
)
growth = Pictures(
    "How the error grows along a text",
    "Both sides read the reference's tokens, so what is seen here is numerical error and no consequence of another "
    "text. Dotted: the same type in another batch layout, the noise floor (a value of 0 has no place on a "
    "logarithmic axis).",
    {"kl": "KL divergence by position", "gap": "Logit gap by position: median, and 10 % to 90 % of the traces"},
    folded=True,
)
calibration = Pictures(
    "Can flips be foretold?",
    "The flip law gives every token a chance to flip, from the reference's margin and from the errors seen on other "
    "prompts. On the dashed line what it foretells comes true; below it fewer flip. A triangle: none flipped, the "
    "share is below its upper end.",
    {"calibration": "Predicted chance of a flip, and the share that flipped"},
    folded=True,
)
comparisons = Pictures(
    "Which of two candidates leaves first",
    "Two candidates read the same prompts, so they are compared text by text: the bar to the left counts those that "
    "the first named left earlier, to the right the second. p is the chance of so uneven a count were both alike, "
    "not adjusted for the number of pairs.",
    {"comparisons": "Texts that the one, or the other, left first"},
    folded=True,
)
after = Pictures(
    "After the first difference",
    "Tokens equal at the same index after texts have parted; a shift by one token counts as different here, the "
    "token view aligns them. Lags with fewer than {least} pairs are left out.",
    {"after": "Agreement by lag"},
    folded=True,
)
decomposition = Pictures(
    "Does the error compound?",
    "Left: both read the reference's text, the candidate once on the reference's state and once on its own. Right: "
    "after texts have parted, both read the candidate's text and the reference's. Above 1, the dashed line, what "
    "came before makes the error larger.",
    {"state": "State: logit error on its own cache over that on the reference's",
     "path": "Path: KL on the candidate's text over that on the reference's"},
    folded=True,
)  # fmt: skip
where = Pictures(
    "Where does the error enter?",
    "Both read the reference's texts; after every layer, the error of the hidden states over their own size, and last "
    "that of the logits. A layer in which nothing differs has no place on a logarithmic axis.",
    {"where": "Error of the hidden states by layer"},
    folded=True,
)
CAPTIONS = {
    name: caption
    for part in (survival, reasons, gaps, perplexity, growth, calibration, comparisons, after, decomposition, where)
    for name, caption in part.captions.items()
}
