"""What plans may not ask for where nobody sees a single update."""

from coordinator.protocol.plan_privacy import PrivacyPlan
from coordinator.protocol.plan_rounds import EvaluationPlan
from coordinator.protocol.plan_server import AggregationPlan
from coordinator.protocol.plan_training import UpdatePlan


def insist_summable(
    mode: str,
    clip_norm: float | None,
    *,
    aggregation: AggregationPlan,
    update: UpdatePlan,
    evaluation: EvaluationPlan | None,
    privacy: PrivacyPlan | None,
) -> None:
    """Check what a plan does with sums of what devices send.

    Args:
        mode: The plan's table that makes sums of them.
        clip_norm: That table's own.
        aggregation: The plan's.
        update: The plan's.
        evaluation: The plan's.
        privacy: The plan's.

    Raises:
        ValueError: It needs what nobody sees, or gives away what is to be hidden.
    """
    if aggregation.rule != "mean":
        raise ValueError(
            f"{mode} takes rule mean alone, got {aggregation.rule}: it compares "
            "updates, and nobody sees one"
        )
    if not aggregation.is_plain:
        raise ValueError(
            f"{mode} takes no max_norm, clip_quantile or zero_quantile in "
            "aggregation: nobody sees an update's length but its device, which "
            f"scales it to {mode}.clip_norm"
        )
    if update.encoding != "f32":
        raise ValueError(
            f"{mode} takes no update.encoding, got {update.encoding}: what devices "
            "send are whole numbers of its own"
        )
    if evaluation is not None and evaluation.personalize_epochs:
        raise ValueError(
            f"{mode} takes no evaluation.personalize_epochs, got "
            f"{evaluation.personalize_epochs}: a device adds one score to the sum"
        )
    if privacy is None:
        if clip_norm is None:
            raise ValueError(f"{mode} needs a clip_norm, or privacy with one")
        return
    if clip_norm is not None:
        raise ValueError(
            f"{mode} takes no clip_norm beside privacy, got {clip_norm}: "
            "privacy.clip_norm is the one"
        )
    if privacy.clip_quantile is not None:
        raise ValueError(
            f"{mode} takes no privacy.clip_quantile: devices scale to a clip_norm "
            "that is settled before they train"
        )
