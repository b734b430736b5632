"""Every English sentence of the page, and the wording of probabilities.

Plain strings and pure functions; nothing here knows of HTML or Gradio, so a translation replaces this one file.
"""

from ..labels import AI, REAL

INCONCLUSIVE = "inconclusive"

TITLE = "Photograph or AI-generated?"
TAGLINE = (
    "Drop an image to see how likely it is to be AI-generated, and where in the picture the evidence lies."
)
IMAGE_LABEL = "Your image"
IMAGE_PLACEHOLDER = "Drop an image here\nor click to choose one"
EXAMPLES_LABEL = "Or try a photograph"
EXAMPLES = {
    "coffee.jpg": "A cup of coffee",
    "cat.jpg": "A cat",
    "astronaut.jpg": "An astronaut",
    "temple.jpg": "A temple",
    "flower.jpg": "A flower",
}

VERDICTS = {REAL: "Likely a photograph", AI: "Likely AI-generated", INCONCLUSIVE: "Inconclusive"}
LABELS = {REAL: "Photograph", AI: "AI-generated"}
KINDS = {REAL: "photographs", AI: "AI-generated"}

PROBABILITY_OF = {REAL: "probability of a photograph", AI: "probability of being AI-generated"}

EMPTY_HEADLINE = "No image yet"
EMPTY_BODY = "The answer appears here as soon as you drop an image or pick one of the photographs."
WAITING_HEADLINE = "Looking at the image…"
WAITING_BODY = "This usually takes a second."
PROBLEM_HEADLINE = "This file could not be used"
PROBLEM_ADVICE = "Drop another file, or pick one of the photographs to see how the page works."
UNEXPECTED = "Something went wrong while looking at this image."
UNEXPECTED_ADVICE = "Try again, or try another image. The details are in the server's log."
NO_IMAGE = "Send an image."

CALIBRATED = "Calibrated probabilities"
UNCALIBRATED = "Scores of the model, not calibrated"

MAP_TITLE = "Where in the image the evidence lies"
MAP_LABEL = "Evidence map"
MAP_METHOD = "Method"
METHODS = {
    "gradcam": "Regions (Grad-CAM)",
    "integrated_gradients": "Fine detail (integrated gradients)",
}
MAP_TARGET = "Show the evidence for"
TARGETS = {AI: "AI-generated", REAL: "Photograph"}
MAP_OPACITY = "Strength of the colours"
MAP_EMPTY = "The map is drawn over your image once there is one."
MAP_WAITING = "Drawing the map…"
MAP_FAILED = "No map for this image: {reason}"
MAP_UNEXPECTED = "The map could not be drawn. The details are in the server's log."
MAP_ALT = "The image, coloured where it counts as evidence for or against “{target}”, by the method “{method}”"
MAP_NOTE = (
    "The map shows what moved the score toward “{target}” or away from it. It does not show which parts were "
    "generated, and it can mark a region for reasons no person would accept."
)

ABOUT_TITLE = "About this detector"
FACT_MODEL = "Model"
FACT_REVISION = "Revision"
FACT_CORPUS = "Trained on"
FACT_INPUT = "Looks at"
FACT_CALIBRATION = "Probabilities"
FACT_THRESHOLDS = "“Inconclusive”"
FACT_MEASURED = "Measured"
NOT_STATED = "The checkpoint does not say."
INPUT_NATIVE = "the middle of the image, {size} × {size} pixels, without resizing it"
INPUT_PROCESSOR = "the image resized to {size} × {size} pixels"
CALIBRATION_STATED = "calibrated on {n} images kept apart for it"
CALIBRATION_STATED_BARE = "calibrated on images kept apart for it"
CALIBRATION_ABSENT = "not calibrated: read them as an order, not as frequencies"
THRESHOLDS_STATED = (
    "the answer wherever a verdict would be too uncertain: of images like those it was calibrated on, at most {alpha} of "
    "the photographs and {alpha} of the generated ones get the wrong verdict"
)
THRESHOLDS_ABSENT = "never the answer: the checkpoint stores no thresholds, so the more probable class is named"
MEASURED_RANKING = "on {n} test images, AUROC {auroc}"
MEASURED_VERDICTS = (
    "a verdict for {given} of them, the wrong one for {real} of photographs and {ai} of generated images"
)
MEASURED_WORST = "weakest on images made by {generator}"
LIMITS_TITLE = "What it cannot do"
LIMITS = (
    "It is wrong in both directions, and more often on images unlike those it was trained on: newer generators, "
    "screenshots, drawings, heavily compressed or resized copies.",
    "It does not find edits: a retouched photograph, or a generated face pasted into one, can pass as either.",
    "It does not know who made an image or why. A verdict is a reason to look closer, not proof against anybody.",
)

FALLBACK = (
    "The detector {model} could not be loaded, so every answer here comes from the one that ships with this page. "
    "The reason is in the server's log."
)
FOOTER = "Images are deleted from the server within the hour and are not used for training."
EXAMPLES_CREDIT = (
    "Photographs: R. Michetti, S. van der Walt (CC0); NASA; danielbuechele, vultilion (CC BY 2.0)."
)


def percent(probability: float) -> str:
    """Word a probability, never as certainty: `"97%"`, `"less than 1%"`, `"more than 99%"`."""
    if probability < 0.005:
        return "less than 1%"
    if probability >= 0.995:
        return "more than 99%"
    return f"{min(max(round(100 * probability), 1), 99)}%"


def frequency(probability: float) -> str:
    """Word a probability as a share of images, never as none or all: `"about 9 in 10"`, `"about half"`."""
    if probability < 0.005:
        return "fewer than 1 in 100"
    if probability >= 0.995:
        return "more than 99 in 100"
    if probability < 0.055 or probability >= 0.945:
        return f"about {min(max(round(100 * probability), 1), 99)} in 100"
    if 0.45 <= probability < 0.55:
        return "about half"
    return f"about {round(10 * probability)} in 10"


def meaning(
    verdict: str, label: str, probabilities: dict[str, float], calibrated: bool, alpha: float | None
) -> str:
    """Say in one or two sentences what the probability means.

    Args:
        verdict: `"real"`, `"ai"` or `"inconclusive"`.
        label: The more probable label, which an inconclusive verdict is described by.
        probabilities: By label, summing to one.
        calibrated: Whether the checkpoint says that its probabilities are calibrated. Where it does not, they are
            not described as frequencies.
        alpha: *optional*. The error rate that the verdict's thresholds were set for.
    """
    named = label if verdict == INCONCLUSIVE else verdict
    probability = probabilities[named]
    if calibrated:
        sentence = (
            f"Of images scored like this one, {frequency(probability)} were {KINDS[named]}, "
            "if photographs and generated images are equally common beforehand."
        )
    else:
        sentence = (
            f"The model's score for “{LABELS[named]}” is {percent(probability)}. Nobody has calibrated it: "
            "do not read it as how often such a verdict is right."
        )
    if verdict != INCONCLUSIVE:
        return sentence
    if alpha is None:
        return f"{sentence} That is not enough for a verdict."
    return f"{sentence} That is not enough for a verdict at an error rate of {100 * alpha:g}%."
