from __future__ import annotations

from hypothesis import settings

# The same examples on every run and machine; how long one takes decides nothing.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")
