"""Decisions: pure functions and frozen records, no I/O, no clock, no hidden randomness.

``rounds`` is the state machine of a round and ``assignments`` that of a device's place
in one; ``selection`` decides who gets a place, ``aggregation`` in which order and with
which weight updates are summed, ``tasks`` when a task opens its next round and when it
ends, ``initialization`` draws first weights, ``errors`` holds every refusal.
"""
