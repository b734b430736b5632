"""What a checkpoint says of itself, as a card: corpus, input, calibration, thresholds, figures and limits.

All of it comes from whoever uploaded the checkpoint, in any shape: what is missing or malformed is said to be missing.
"""

import re
from typing import Any

from realfake.labels import AI, REAL
from realfake.space.markup import dig, escape, number
from realfake.space.text import Words

LIMITS = ("limits.1", "limits.2", "limits.3")


def about(words: Words, name: str, revision: str | None, facts: Any, evaluation: Any = None) -> str:
    """Describe a checkpoint.

    Args:
        words: In which language.
        name: The Hub id, or the folder's name.
        revision: *optional*. The commit on the Hub.
        facts: `config.realfake`.
        evaluation: *optional*. The checkpoint's `evaluation.json`.
    """
    rows = [(words("about.model"), model_link(name))]
    if revision:
        rows.append((words("about.revision"), f"<code>{escape(str(revision)[:12])}</code>"))
    rows += [(fact, escape(said)) for fact, said in statements(words, facts, evaluation)]
    listed = "".join(f"<div><dt>{escape(fact)}</dt><dd>{said}</dd></div>" for fact, said in rows)
    limits = "".join(f"<li>{escape(words(limit))}</li>" for limit in LIMITS)
    return (
        f'<section class="rf-card rf-about"><h2>{escape(words("about.title"))}</h2><dl>{listed}</dl>'
        f"<h3>{escape(words('limits.title'))}</h3><ul>{limits}</ul></section>"
    )


def statements(words: Words, facts: Any, evaluation: Any = None) -> list[tuple[str, str]]:
    """Word the facts of a checkpoint: a list of `(what, sentence)`, not yet escaped."""
    corpus = dig(facts, "corpus")
    said = [
        (
            words("about.corpus"),
            corpus if isinstance(corpus, str) and corpus.strip() else words("about.silent"),
        )
    ]
    size, kind = number(dig(facts, "image_size")), str(dig(facts, "preprocessing"))
    if size and kind in ("native", "processor"):
        said.append((words("about.input"), words(f"about.input_{kind}", size=f"{size:.0f}")))
    images = number(dig(facts, "calibration", "n"))
    if not is_calibrated(facts):
        calibration = words("about.uncalibrated")
    elif images:
        calibration = words("about.calibrated", n=words.number(images))
    else:
        calibration = words("about.calibrated_bare")
    said.append((words("about.calibration"), calibration))
    alpha = number(dig(facts, "thresholds", "alpha"))
    thresholds = (
        words("about.with_thresholds", alpha=words("number.percent", n=f"{100 * alpha:g}"))
        if alpha
        else words("about.without_thresholds")
    )
    said.append((words("about.thresholds"), thresholds))
    measured = measurement(words, evaluation)
    return said + [(words("about.measured"), measured)] if measured else said


def measurement(words: Words, evaluation: Any) -> str | None:
    """Word the figures of the test split, or `None` where there are none."""
    figures = dig(evaluation, "test", "figures")
    auroc = number(dig(figures, "summary", "auroc", "value"))
    images = number(dig(figures, "summary", "auroc", "n"))
    if auroc is None or not images:
        return None
    said = [words("about.ranking", n=words.number(images), auroc=words.decimal(auroc))]
    given = number(dig(figures, "verdicts", "given", "value"))
    wrong = {
        label: number(dig(figures, "verdicts", "wrong", label, "value")) for label in (REAL, AI)
    }
    if given is not None and None not in wrong.values():
        shares = {label: words.percent(share) for label, share in wrong.items()}
        said.append(words("about.verdicts", given=words.percent(given), **shares))
    worst = dig(figures, "worst_generator")
    if isinstance(worst, str):
        said.append(words("about.worst", generator=worst))
    return "; ".join(said)


def is_calibrated(facts: Any) -> bool:
    """Tell whether a checkpoint says that its calibration is folded into its weights."""
    return dig(facts, "calibration", "folded") is True


def is_hub_id(name: str) -> bool:
    """Tell whether a name has the form of a Hub id."""
    form = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"
    return re.fullmatch(form, name) is not None and ".." not in name and "--" not in name


def model_link(name: str) -> str:
    """The name, as a link where it has the form of a Hub id: a name cannot smuggle in an address."""
    shown = escape(name)
    if is_hub_id(name):
        return f'<a href="https://huggingface.co/{shown}" rel="noopener">{shown}</a>'
    return shown
