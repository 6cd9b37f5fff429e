"""Measurements: each prints a ratio against a floor taken in the same run."""
