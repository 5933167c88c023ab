"""What a run says of where an error enters (`--where`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from decodedrift.core.untrusted import visible
from decodedrift.report.phrases import listed, number, percent

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

UNEVEN = 3.0  # a layer that multiplies the error so many times more than the mean one does stands out


def sentences(study: Study) -> list[str]:
    """One sentence a candidate: where its error enters, how large it is there and at the end, and whether it jumps."""
    if not len(study.where):
        return []
    rows = study.where[study.where["role"] == "candidate"]
    told = [_sentence(str(name), side) for name, side in rows.groupby("candidate", sort=False)]
    failed = study.failures["variant"]
    names = [str(v["name"]) for v in study.plan["candidates"]]
    missing = [visible(n) for n in names if n not in set(rows["candidate"]) and n not in set(failed)]
    if missing:
        told.append(f"Not looked into: {listed(missing)}, whose knob acts only while text is generated.")
    return told


def _sentence(name: str, side: pd.DataFrame) -> str:
    states = side.iloc[:-1]  # the last are logits
    there = states[states["rms_ratio"] > 0]
    prompts = int(side["prompts"].max())
    head = f"Inside {visible(name)} ({prompts} prompt{'s' * (prompts != 1)})"
    if not len(there):
        alike = " and no logit" if side["rms_ratio"].iloc[-1] == 0 else ""
        return f"{head} no hidden state{alike} differs from the reference's in any bit."
    first, last, module = there.iloc[0], there.iloc[-1], side["first_module"].iloc[0]
    text = f"{head} the error enters at {visible(str(module if pd.notna(module) else first['module']))}"
    text += f" (in {int(side['first_prompts'].iloc[0])} of {prompts})" if pd.notna(module) else ""
    text += f": {_share(first['rms_ratio'])} of the hidden states after {visible(str(first['module']))}"
    if len(there) == 1:
        return f"{text}."
    text += f", {_share(last['rms_ratio'])} {visible(str(last['module']))}"
    if jumps := uneven(there):
        return (
            f"{text}; most of it comes at {listed([f'{visible(row.module)} (times {row.step:.1f})' for row in jumps])}."
        )
    return f"{text}, and no layer stands out."


def uneven(there: pd.DataFrame) -> list[Any]:
    """The rows whose step is UNEVEN times the mean step of all layers, geometric, or more; at most three."""
    count = len(there) - 1
    mean = (there["rms_ratio"].iloc[-1] / there["rms_ratio"].iloc[0]) ** (1 / count)
    later = there.iloc[1:]
    return list(later[later["step"] > UNEVEN * max(1.0, mean)].nlargest(3, "step").itertuples())


def _share(value: float) -> str:
    return percent(value) if value >= 1e-5 else number(value)
