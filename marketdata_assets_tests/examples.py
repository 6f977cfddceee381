"""How many examples a property is tried with: all of them in CI, a third where a person waits for `make test`."""

from __future__ import annotations

from hypothesis import settings

_USUAL = 100
FEWEST = 5


def register_profiles() -> None:
    """Make `full` the profile in force, and `quick` one that `--hypothesis-profile` may choose."""
    # No deadline: how long an example takes says more of the machine's other work than of the code.
    settings.register_profile("full", max_examples=_USUAL, deadline=None)
    settings.register_profile("quick", max_examples=30, deadline=None)
    settings.load_profile("full")


def examples(count: int) -> settings:
    """Return settings with ``count`` examples under `full`, and under `quick` with as small a share as it has."""
    share = settings().max_examples / _USUAL
    return settings(max_examples=max(FEWEST, round(count * share)))
