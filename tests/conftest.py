"""Settings of every test: Hypothesis draws the same examples each time."""

import hypothesis

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.load_profile("ci")

pytest_plugins = ["tests.support.databases", "tests.support.disks"]
