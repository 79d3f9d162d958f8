"""One sentence or two of all verdicts: whose fault what is wrong is, the largest loss first."""

from __future__ import annotations

from collections.abc import Sequence

from pyro_lvm.evidence.gap import GOOD_NATS
from pyro_lvm.judgement.verdicts import Verdict

# Who loses nats, by the verdict that says how many.
_CULPRITS = {"encoder": "the encoder", "family": "the guide's family", "model": "the model"}
# What tells of faults without saying how many nats they cost: where it is bad, and where it is little.
_SIGNS = {
    "calibration": (
        "the guide's probabilities don't hold on rows that the model made",
        "the guide's probabilities are slightly off on rows that the model made",
    ),
    "weights": ("the guide misses parts of the posterior", "the guide misses parts of some rows' posteriors"),
    "latents": ("no latent dimension is used", "some latent dimensions are not used"),
    "overfitting": ("the encoder overfits", "the encoder overfits a little"),
    "evidence": ("what the model says of its evidence is wrong", "the evidence isn't known well"),
    "contract": ("the contract is broken", "the contract has warnings"),
}
_REALISM = (
    "The rows are unlike the model's own: what was found on simulated rows may not carry over to them, and a better "
    "model comes before a better guide.",
    "The rows can be told from the model's own: what was found on simulated rows is an indication.",
)


def blame(verdicts: Sequence[Verdict]) -> str:
    """Say whose fault it is.

    Args:
        verdicts: All that there are.
    """
    by_name = {verdict.name: verdict for verdict in verdicts}
    # A contract that couldn't be checked leaves nothing else.
    unsure = {name for name in ("posterior", "calibration") if name not in by_name or by_name[name].level == "unknown"}
    if by_name["contract"].level == "bad":
        return "The pair breaks its contract: mend that first; nothing else was looked at."
    off = {name: verdict for name, verdict in by_name.items() if verdict.level in ("look", "bad")}
    losses = sorted(
        ((float(off[name].figures["loss"]), who) for name, who in _CULPRITS.items() if name in off), reverse=True
    )
    parts = []
    if losses:
        (worst, culprit), others = losses[0], losses[1:]
        rest = "".join(f", then by {who}, {loss:.2g}" for loss, who in others)
        parts.append(f"Most is lost by {culprit}, {worst:.2g} nats a row{rest}.")
    elif "posterior" in off:
        told = all(by_name[name].level == "good" for name in ("family", "encoder"))
        parts.append(
            "The guide is off by so little that neither its family nor its encoder stands out."
            if told
            else "The guide is off, and whether its family or its encoder is to blame couldn't be told."
        )
    signs = [texts[off[name].level == "look"] for name, texts in _SIGNS.items() if name in off]
    if signs:
        sentence = "; ".join(signs)
        parts.append(sentence[0].upper() + sentence[1:] + ".")
    if "realism" in off:
        parts.append(_REALISM[off["realism"].level == "look"])
    if not parts and len(unsure) == 2:
        parts.append("Whether the posterior is right couldn't be found out for this pair.")
    elif not parts and "posterior" in unsure:
        parts.append("Nothing wrong was seen, but no loss could be measured.")
    elif not parts:
        parts.append(
            f"The posterior is right as far as these checks see: no loss above {GOOD_NATS} nats a row is certain."
        )
    unknown = [verdict.name for verdict in verdicts if verdict.level == "unknown"]
    if unknown:
        parts.append(f"Not known: {', '.join(unknown)}.")
    return " ".join(parts)
