"""Settings and fixtures of the contract's tests."""

from __future__ import annotations

from hypothesis import settings

# A busy machine is no failure; a failing example is printed so that it can be repeated.
settings.register_profile("matseg", deadline=None, print_blob=True)
settings.load_profile("matseg")
