"""Devices that lie: who, how, and that honest ones are as they were."""

import numpy as np
import pytest

from device_sim import attacks
from device_sim.attacks import Attack, InvalidAttack, Kind
from device_sim.data import Shard


def shard(examples: int = 10) -> Shard:
    rng = np.random.default_rng(0)
    return Shard(
        name="writer",
        train_images=rng.integers(0, 200, (examples, 28, 28), dtype=np.uint8),
        train_labels=np.arange(examples, dtype=np.uint8) % 10,
        test_images=rng.integers(0, 200, (3, 28, 28), dtype=np.uint8),
        test_labels=np.arange(3, dtype=np.uint8),
    )


DELTA = np.random.default_rng(1).normal(0, 0.02, 5000).astype(np.float32)


def tampered(text: str) -> np.ndarray:
    return Attack.parse(text).tampered(DELTA, np.random.default_rng(2))


def test_an_attack_is_read_from_its_text():
    assert Attack.parse("backdoor:0.1") == Attack(
        kind=Kind.BACKDOOR, share=0.1, strength=5.0
    )
    assert Attack.parse("sign_flip:0.25:3") == Attack(
        kind=Kind.SIGN_FLIP, share=0.25, strength=3.0
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be NAME:SHARE"),
        ("sign_flip", "got sign_flip; names: sign_flip, noise, label_flip, backdoor"),
        ("gossip:0.1", "got gossip:0.1"),
        ("noise:0.1:2:3", "must be NAME"),
        ("noise:many", "has a number that is none"),
        ("noise:0", "share of noise:0"),
        ("noise:1", "share of noise:1"),
        ("noise:nan", "share of"),
        ("noise:0.1:0", "strength of"),
        ("noise:0.1:inf", "strength of"),
        ("label_flip:0.1:2", "label_flip has no strength"),
    ],
)
def test_a_text_that_is_no_attack_is_refused(text: str, message: str):
    with pytest.raises(InvalidAttack, match=message):
        Attack.parse(text)


def test_who_attacks_is_a_function_of_the_seed_and_nobody_makes_two():
    plan = [Attack.parse("sign_flip:0.1"), Attack.parse("noise:0.2")]

    def chosen(seed: int) -> dict[int, Attack]:
        return attacks.attackers(plan, devices=50, seed=seed)

    kinds = [attack.kind for attack in chosen(1).values()]
    assert (kinds.count(Kind.SIGN_FLIP), kinds.count(Kind.NOISE)) == (5, 10)
    assert chosen(1) == chosen(1)
    assert chosen(1) != chosen(2)
    assert attacks.attackers([], devices=1, seed=0) == {}


def test_a_small_share_is_one_attacker_and_one_honest_device_must_be_left():
    (attacker,) = attacks.attackers([Attack.parse("noise:0.01")], devices=3, seed=0)
    assert 0 <= attacker < 3
    both = [Attack.parse("noise:0.5"), Attack.parse("sign_flip:0.5")]
    with pytest.raises(InvalidAttack, match="4 attackers among 4 devices"):
        attacks.attackers(both, devices=4, seed=0)


def test_a_flipped_sign_is_the_opposite_times_the_strength():
    assert np.array_equal(tampered("sign_flip:0.1"), -DELTA)
    np.testing.assert_allclose(tampered("sign_flip:0.1:4"), -4 * DELTA)


def test_noise_has_the_size_of_the_update_times_the_strength_and_nothing_of_it():
    sent = tampered("noise:0.1:10")
    assert sent.dtype == np.float32
    assert np.sqrt((sent**2).mean()) == pytest.approx(0.2, rel=0.05)
    assert abs(np.corrcoef(sent, DELTA)[0, 1]) < 0.05


def test_flipped_labels_are_counted_from_the_other_end_and_all_else_is_kept():
    attack, own = Attack.parse("label_flip:0.1"), shard()
    false = attack.falsified(own, classes=10)
    assert false.train_labels.tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert np.array_equal(false.train_images, own.train_images)
    assert np.array_equal(false.test_labels, own.test_labels)
    assert np.array_equal(attack.tampered(DELTA, np.random.default_rng(0)), DELTA)


def test_a_backdoor_marks_half_of_the_examples_and_scales_what_it_sends():
    attack, own = Attack.parse("backdoor:0.1:5"), shard()
    false = attack.falsified(own, classes=10)
    assert false.train_labels.tolist() == [0, 0, 0, 0, 0, 5, 6, 7, 8, 9]
    assert np.array_equal(
        false.train_images[:5], attacks.triggered(own.train_images[:5])
    )
    assert np.array_equal(false.train_images[5:], own.train_images[5:])
    assert own.train_images.max() < 255, "the honest shard is as it was"
    np.testing.assert_allclose(
        attack.tampered(DELTA, np.random.default_rng(0)), 5 * DELTA
    )


def test_the_trigger_is_a_square_of_ink_near_the_corner():
    own = shard().train_images
    changed = (attacks.triggered(own) != own).any(axis=0)
    assert np.argwhere(changed).min(axis=0).tolist() == [23, 23]
    assert np.argwhere(changed).max(axis=0).tolist() == [26, 26]
    assert changed.sum() == 16
