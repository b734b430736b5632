"""The detector's metrics as an `evaluate.Metric`, for code that speaks that interface; works without a network.

`evaluate.load("accuracy")` downloads a script. This one is part of the package, keeps predictions in memory
and writes no files, so several processes can compute at once.
"""

import datasets
import evaluate
import numpy as np
from scipy.special import expit
from transformers import EvalPrediction

from ..labels import AI, NAMES
from ..statistics import metrics
from ..statistics.margins import margin_from_logits

_DESCRIPTION = (
    "Accuracy, precision, recall and F1 of both classes, AUROC, and the quality of the probabilities."
)

_INPUTS = """
Args:
    predictions (`list` of `float`): Margins, the log-odds of ai; above 0 is called ai.
    references (`list` of `int`): 1 for ai, 0 for real.
    class_balanced (`bool`, *optional*, defaults to `True`): Give both classes the same mass in `ece`, `nll` and
        `brier`, whose probabilities mean equal odds beforehand.

Returns:
    `dict` of `float`: accuracy, balanced_accuracy, precision_real, recall_real, f1_real, precision_ai, recall_ai,
    f1_ai, auroc, ece, nll, brier. A value that is not defined, such as auroc on one class, is NaN.
"""


class DetectionMetrics(evaluate.Metric):
    """`DetectionMetrics().compute(predictions=margins, references=is_ai)`; see the module.

    Raises:
        ValueError: `compute` or `add_batch`: lengths differ, a margin is NaN, or a reference is not 0 or 1.

    Examples:
        >>> DetectionMetrics().compute(predictions=[2.0, -1.0], references=[1, 0])["accuracy"]
        1.0
    """

    def __init__(self, config_name: str | None = None, **kwargs):
        # In memory: the base class would keep an Arrow file and a lock under ~/.cache.
        super().__init__(config_name, keep_in_memory=True, **kwargs)

    def _build_data_dir(self) -> str:
        # The base class makes this folder even where nothing is ever kept in it.
        return self._data_dir_root

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references, class_balanced: bool = True) -> dict[str, float]:
        margin, is_ai = metrics.check_margin(np.asarray(predictions), np.asarray(references))
        weights = metrics.class_balanced_weights(is_ai) if class_balanced else None
        p_ai = expit(margin)
        values = {
            "accuracy": metrics.accuracy(margin, is_ai),
            "balanced_accuracy": metrics.balanced_accuracy(margin, is_ai),
        }
        for label in NAMES:
            values[f"precision_{label}"] = metrics.precision(margin, is_ai, label)
            values[f"recall_{label}"] = metrics.recall(margin, is_ai, label)
            values[f"f1_{label}"] = metrics.f1(margin, is_ai, label)
        values["auroc"] = metrics.auroc(margin, is_ai)
        values["ece"] = metrics.ece(p_ai, is_ai, weights)
        values["nll"] = metrics.nll(margin, is_ai, weights)
        values["brier"] = metrics.brier(p_ai, is_ai, weights)
        return values


def metrics_of(label2id: dict[str, int]):
    """Make the function that `Trainer` computes its metrics with every epoch."""
    metric = DetectionMetrics()
    columns = {name: [label2id[name]] for name in NAMES}

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        margins = margin_from_logits(np.asarray(prediction.predictions, dtype=np.float64), columns)
        return metric.compute(
            predictions=margins, references=(prediction.label_ids == label2id[AI]).astype(int)
        )

    return compute


def check_metric(name: str | None) -> None:
    """Refuse a `--metric_for_best_model` that is not measured, which `Trainer` would notice after the first epoch.

    Raises:
        ValueError: There is no such metric.
    """
    known = ["loss", *DetectionMetrics().compute(predictions=[1.0, -1.0], references=[1, 0])]
    if name is not None and name.removeprefix("eval_") not in known:
        raise ValueError(f"--metric_for_best_model must be one of {', '.join(known)}, not {name!r}.")
