"""The card's metadata: what the Hub and leaderboards read of the figures."""

from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData

from .facts import CardFacts
from .markdown import slug
from .numbers import score

# Name here, metric id of the Hub, name for people.
_INDEXED = (
    ("accuracy", "accuracy", "Accuracy"),
    ("auroc", "roc_auc", "AUROC"),
    ("f1_ai", "f1", "F1 of ai"),
    ("ece", "expected_calibration_error", "ECE, classes balanced"),
)


def card_data(facts: CardFacts) -> ModelCardData:
    """Make the metadata, with the figures as `model-index`."""
    summary = facts.figures.get("summary", {})
    corpus = facts.corpus_id or facts.record.get("corpus") or facts.corpus or "unnamed"
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Real or AI-generated",
            # The Hub refuses types that could not be a data set's id.
            dataset_type=facts.corpus_id or slug(corpus),
            dataset_name=str(facts.corpus or corpus),
            dataset_split=facts.split,
            dataset_revision=facts.corpus_revision,
            metric_type=kind,
            metric_name=label,
            metric_value=round(summary[name]["value"], 4),
        )
        for name, kind, label in _INDEXED
        if (summary.get(name) or {}).get("value") is not None
    ]
    return ModelCardData(
        license=facts.license,
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["ai-generated-image-detection", "realfake", *facts.tags],
        base_model=facts.base_model_id,
        datasets=[facts.corpus_id] if facts.corpus_id else None,
        metrics=[result.metric_type for result in results] or None,
        model_name=facts.name if results else None,
        eval_results=results or None,
    )


def eval_result_entries(facts: CardFacts) -> list[EvalResultEntry]:
    """Make the headline for leaderboards; empty where the corpus is not on the Hub, since a benchmark is named by its id."""
    accuracy = facts.figures.get("summary", {}).get("accuracy")
    if not facts.corpus_id or not accuracy or accuracy["value"] is None:
        return []
    auroc = facts.figures["summary"]["auroc"]
    notes = [f"accuracy on {facts.split}, n = {accuracy['n']}", f"95 % interval {score(accuracy, bare=True)}"]
    if auroc["value"] is not None:
        notes.append(f"AUROC {score(auroc, bare=True)}")
    entry = EvalResultEntry(
        dataset_id=facts.corpus_id,
        task_id=facts.eval_task_id,
        value=round(accuracy["value"], 4),
        dataset_revision=facts.corpus_revision,
        date=facts.record.get("date"),
        notes="; ".join(notes),
    )
    return [entry]
