"""Our results in the words of CLIP_benchmark 1.6, whose `build` makes one table of many models' files.

Where the two define a metric differently, the value is theirs (clip_benchmark/metrics/*.py of
https://github.com/LAION-AI/CLIP_benchmark).
"""

import re

from contrastive.eval.result import EvalResult

# By our task: their task, and their names of our metrics.
TASKS: dict[str, tuple[str, dict[str, str]]] = {
    "zeroshot": (
        "zeroshot_classification",
        {"top1": "acc1", "top5": "acc5", "mean_per_class_recall": "mean_per_class_recall"},
    ),
    "multilabel": ("zeroshot_classification", {"mean_average_precision": "mean_average_precision"}),
    "retrieval": ("zeroshot_retrieval", {}),
    "choice": ("image_caption_selection", {"image_score": "image_acc", "text_score": "text_acc", "group_score": "acc"}),
    "linear_probe": (
        "linear_probe",
        {"probe_top1": "lp_acc1", "probe_top5": "lp_acc5", "probe_mean_per_class_recall": "lp_mean_per_class_recall"},
    ),
}
RECALL = re.compile(r"(image_to_text|text_to_image)_recall@(\d+)")
SOUGHT = {"image_to_text": "text_retrieval", "text_to_image": "image_retrieval"}  # they name what is found


def clip_benchmark_metrics(result: EvalResult) -> tuple[str, dict[str, float | None]] | None:
    """Return their name of the task and their metrics; None where they have no such task, or there is no result."""
    if result.task not in TASKS or result.error is not None:
        return None
    task, names = TASKS[result.task]
    metrics: dict[str, float | None] = {names[name]: result.metrics[name] for name in names if name in result.metrics}
    for name, value in result.metrics.items():
        if found := RECALL.fullmatch(name):
            metrics[f"{SOUGHT[found[1]]}_recall@{found[2]}"] = value
    if result.details.get("counts", {}).get("classes", 5) < 5:
        metrics |= {name: None for name in metrics if name.endswith("acc5")}  # theirs is NaN
    if "map_empty_as_zero" in result.details:
        metrics["mean_average_precision"] = result.details["map_empty_as_zero"]
    return task, metrics
