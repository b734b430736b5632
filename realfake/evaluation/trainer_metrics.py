"""The metrics that `transformers.Trainer` computes during training, without network."""

from collections.abc import Callable, Mapping
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy.special import expit
from transformers import EvalPrediction

from realfake.labels import AI, NAMES
from realfake.statistics import metrics
from realfake.statistics.metrics import check_log_odds, class_balanced_weights, log_odds_from_logits


class DetectionMetrics(evaluate.Metric):
    """Metrics of a detector as an `evaluate.Metric`, computed in memory and without network.

    `compute` takes `predictions` (log-odds of ai) and `references` (1 for ai, 0 for real). It
    returns those of [`metrics.decision_metrics`], and auroc, ece, nll and brier; both classes have
    the same mass in the last three. A value is NaN if it is not defined.

    Raises:
        ValueError: `compute` or `add_batch`: lengths differ, a prediction is NaN, or a reference is
            not 0 or 1.

    Examples:
        >>> DetectionMetrics().compute(predictions=[2.0, -1.0], references=[1, 0])["accuracy"]
        1.0
    """

    def __init__(self, config_name: str | None = None, **kwargs):
        # The base class would keep an Arrow file and a lock under ~/.cache.
        super().__init__(config_name, keep_in_memory=True, **kwargs)

    def _build_data_dir(self) -> str:
        # The base class creates this folder even if it stays empty.
        return self._data_dir_root

    def _info(self) -> evaluate.MetricInfo:
        inputs = {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description="Decisions of both classes, AUROC, and the quality of the probabilities.",
            citation="",
            features=datasets.Features(inputs),
        )

    def _compute(self, predictions, references) -> dict[str, Any]:
        log_odds, is_ai = check_log_odds(np.asarray(predictions), np.asarray(references))
        weights = class_balanced_weights(is_ai)
        p_ai = expit(log_odds)
        return {
            **metrics.decision_metrics(log_odds, is_ai),
            "auroc": metrics.auroc(log_odds, is_ai),
            "ece": metrics.ece(p_ai, is_ai, weights),
            "nll": metrics.nll(log_odds, is_ai, weights),
            "brier": metrics.brier(p_ai, is_ai, weights),
        }


def metrics_of(label2id: Mapping[str, int]) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return the `compute_metrics` function of a `Trainer`."""
    metric = DetectionMetrics()
    class_indices = {name: [label2id[name]] for name in NAMES}

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        logits = np.asarray(prediction.predictions, dtype=np.float64)
        return metric.compute(
            predictions=log_odds_from_logits(logits, class_indices),
            references=(prediction.label_ids == label2id[AI]).astype(int),
        )

    return compute


def check_metric(name: str | None) -> None:
    """Check the value of `--metric_for_best_model` before the training starts.

    Raises:
        ValueError: There is no such metric.
    """
    known = ["loss", *DetectionMetrics().compute(predictions=[1.0, -1.0], references=[1, 0])]
    if name is not None and name.removeprefix("eval_") not in known:
        raise ValueError(
            f"--metric_for_best_model must be one of {', '.join(known)}, not {name!r}."
        )
