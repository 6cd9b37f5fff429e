"""What a device joins, as it works it out itself from what it was sent."""

import hashlib

import rfc8785

from coordinator.protocol.messages import Assignment
from coordinator.protocol.plan_training import TrainingPlan
from coordinator.protocol.secagg.messages import Session


def plan_sha256(training: TrainingPlan | None) -> str:
    """Return the digest of what a device was told to do, 64 hex digits.

    Args:
        training: As its assignment says; none: it only scores.

    Source: RFC 8785, canonical JSON, of the assignment's ``training``.
    """
    content = None if training is None else training.model_dump(mode="json")
    return hashlib.sha256(rfc8785.dumps(content)).hexdigest()


def session_of(assignment: Assignment) -> Session:
    """Return what the device of an assignment joins. Run by the device.

    Raises:
        ValueError: The assignment's round takes results in the clear.
    """
    terms = assignment.secagg or assignment.encryption
    if terms is None:
        raise ValueError(f"assignment {assignment.id} has no session")
    return Session(
        id=terms.session,
        task=assignment.task,
        round=assignment.round,
        attempt=assignment.attempt,
        model_sha256=assignment.weights.sha256,
        plan_sha256=plan_sha256(assignment.training),
    )
