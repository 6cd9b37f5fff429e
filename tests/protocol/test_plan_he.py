"""Plans with encrypted results: what cannot hold is refused, saying why."""

import pytest

from coordinator.protocol import plans

HE = "[he]\nclip_norm = 1.0\n"
ROUND = "[round]\ngoal = 10\nminimum = 5\n"
PRIVACY = "[privacy]\npopulation = 100\ndelta = 1e-5\nnoise_multiplier = 2.0\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ROUND + "[he]", "he needs a clip_norm, or privacy with one"),
        (ROUND + HE + PRIVACY, "he takes no clip_norm beside privacy"),
        (ROUND + HE + "minimum = 1", "greater than or equal to 2"),
        (ROUND + HE + "minimum = 6", "round.minimum must be at least he.minimum 6"),
        (
            ROUND + HE + "minimum = 4\n[evaluation]\ngoal = 9\nminimum = 3",
            "evaluation.minimum must be at least he.minimum 4",
        ),
        (ROUND + HE + '[aggregation]\nrule = "median"', "he takes rule"),
        (ROUND + HE + '[update]\nencoding = "q8"', "he takes no update.encoding"),
        (ROUND + HE + "[asynchronous]", "he takes no asynchronous rounds"),
        (ROUND + HE + "[secagg]\nclip_norm = 1.0", "he takes no secagg"),
        (
            ROUND + "[he]\n" + PRIVACY + "clip_quantile = 0.5\ncount_noise = 0.5",
            "he takes no privacy.clip_quantile",
        ),
        (
            ROUND + "[he]\n" + PRIVACY + 'mechanism = "local_gaussian"',
            "he takes privacy.mechanism central_gaussian alone",
        ),
    ],
)
def test_what_cannot_hold_is_refused(text: str, message: str) -> None:
    with pytest.raises(plans.InvalidPlan, match=message):
        plans.parse(text)


def test_a_plan_may_encrypt_with_and_without_noise() -> None:
    assert plans.parse(ROUND + HE).he is not None
    private = plans.parse(ROUND + "[he]\n" + PRIVACY)
    assert private.he is not None
    assert private.he.minimum == 2
