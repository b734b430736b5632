"""From facts to `README.md`: fills the template `templates/model_card.md`. A section whose facts are missing is left out."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from huggingface_hub import ModelCard, eval_result_entries_to_yaml

from ..labels import NAMES
from ..records import write_atomically
from . import probabilities, training
from .degradations import degradations_section
from .facts import CardFacts
from .formats import formats_section
from .limits import limits
from .maps import maps_section
from .markdown import code, fence, link, md
from .metadata import card_data, eval_result_entries
from .results import headline, results
from .unsuitable import in_short, unsuitable_section

TEMPLATE = Path(__file__).parent.parent / "templates" / "model_card.md"
EVAL_RESULTS = Path(".eval_results") / "realfake.yaml"


def write_card(folder: str | os.PathLike, facts: CardFacts) -> Path:
    """Write `README.md`, and `.eval_results/realfake.yaml` where the corpus is one of the Hub's.

    Args:
        folder: The checkpoint's folder.
        facts: What the card says.

    Returns:
        `Path`: The card.

    Raises:
        OSError: The folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "README.md"
    write_atomically(path, str(render(facts)))
    results_file = folder / EVAL_RESULTS
    entries = eval_result_entries(facts)
    if entries:
        results_file.parent.mkdir(exist_ok=True)
        text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
        write_atomically(results_file, text)
    else:
        # One from an earlier run would be of other weights.
        results_file.unlink(missing_ok=True)
    return path


def render(facts: CardFacts) -> ModelCard:
    """Make the card."""
    card = ModelCard.from_template(
        card_data(facts),
        template_path=str(TEMPLATE),
        facts=facts,
        view=_view(facts),
        md=md,
        code=code,
        fence=fence,
        link=link,
    )
    card.text = re.sub(r"\n{3,}", "\n\n", card.text).rstrip() + "\n"
    return card


def _view(facts: CardFacts) -> dict:
    measured = bool(facts.figures)
    return {
        "source": source(facts),
        "introduction": _introduction(facts),
        "headline": headline(facts) if measured else None,
        "in_short": in_short(facts),
        "pipeline_output": _pipeline_output(facts.class_names),
        "verdict_output": '"real", "ai" or "inconclusive"' if facts.thresholds else '"real" or "ai"',
        "preprocessing": _preprocessing(facts),
        "calibration": probabilities.calibration(facts.calibration),
        "prior_example": probabilities.prior_example(),
        "calibration_figures": probabilities.calibration_figures(facts),
        "verdicts": probabilities.verdict_rule(facts.thresholds, facts.novelty),
        **probabilities.verdict_figures(facts),
        "operating_points": probabilities.operating_points(facts),
        "unsuitable": unsuitable_section(facts),
        **results(facts),
        **degradations_section(facts),
        **formats_section(facts),
        **maps_section(facts),
        "limits": limits(facts),
        "training": training.training(facts),
        "hyperparameters": training.hyperparameters(facts),
        "augmentation": training.augmentation(facts.augmentation),
        **training.corpus(facts),
        "reproduction": training.reproduction(facts, source(facts)) if measured else None,
        "versions": ", ".join(f"{md(name)} {md(number)}" for name, number in facts.versions.items()),
        "licence": f"The weights: {md(facts.license)}. The images that they were trained on are not part of this repository.",
    }


def source(facts: CardFacts) -> str:
    """What the examples open: the Hub id, or words that stand for the folder."""
    return re.sub(r"[^\w./-]", "", facts.repo_id or "") or "path/to/this/folder"


def _introduction(facts: CardFacts) -> str:
    words = "Tells photographs and other real images from images made by a generator."
    if facts.model_class:
        size = f" with {facts.parameters / 1e6:.1f} million parameters" if facts.parameters else ""
        start = f"fine-tuned from {md(facts.base_model)}" if facts.base_model else "trained from random weights"
        words += f" A {code(facts.model_class)} for Transformers{size}, {start}."
    return words


def _pipeline_output(class_names: Sequence[str]) -> str:
    names = [re.sub(r"[\s`]+", " ", str(name)) for name in class_names]
    if sorted(names) == sorted(NAMES):
        return '[{"label": "ai", "score": p}, {"label": "real", "score": 1 - p}], the more probable one first'
    return f'[{{"label": …, "score": …}}, …], the most probable first; labels: {", ".join(names)}'


def _preprocessing(facts: CardFacts) -> str:
    size = f"{facts.image_size} × {facts.image_size} pixels" if facts.image_size else "the network's input size"
    if facts.preprocessing == "native":
        return (
            f"The image is not resized: the network sees the central {size} of it as they are, and black around a "
            "smaller image."
        )
    if facts.preprocessing == "processor":
        return (
            f"The image processor in this repository brings each image to {size} and normalises it. Where torchvision is "
            "installed, `pipeline` may do that with it and give slightly other scores; `realfake` always takes the PIL "
            "image processor, with which the figures below were made."
        )
    return "The image processor in this repository does the preprocessing."
