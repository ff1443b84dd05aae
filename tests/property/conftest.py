"""The same examples on every run: a failure here is a failure for everyone."""

from __future__ import annotations

from hypothesis import settings

# No deadline: a busy machine is not a bug.
settings.register_profile("teller", derandomize=True, deadline=None, max_examples=100)
settings.load_profile("teller")
