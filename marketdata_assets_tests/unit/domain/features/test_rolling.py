from __future__ import annotations

from math import fsum
from statistics import pvariance, variance

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.features.rolling import rolling_moments, rolling_sum

VALUES = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), max_size=60)


BLOCK = 7
"""Sixty values are several blocks."""


@given(VALUES, st.integers(1, 25), st.integers(1, 3))
def test_a_sum_is_that_of_its_window(values: list[float], n: int, stride: int) -> None:
    sums = rolling_sum(np.array(values, dtype=np.float64), n, stride, block=BLOCK)
    reach = (n - 1) * stride
    assert np.isnan(sums[:reach]).all()
    for row in range(reach, len(values)):
        window = values[row - reach : row + 1 : stride]
        assert sums[row] == pytest.approx(fsum(window), rel=1e-12, abs=1e-6 * 1e-9)


@given(VALUES, st.integers(2, 25))
def test_moments_are_those_of_their_window(values: list[float], n: int) -> None:
    moments = rolling_moments(np.array(values, dtype=np.float64), n, block=BLOCK)
    sample, population = moments.sample_variance(), moments.population_deviation()
    assert np.isnan(sample[: n - 1]).all()
    for row in range(n - 1, len(values)):
        window = values[row - n + 1 : row + 1]
        assert moments.mean[row] == pytest.approx(fsum(window) / n, rel=1e-12, abs=1e-9)
        assert sample[row] == pytest.approx(variance(window), rel=1e-9, abs=1e-12)
        assert population[row] == pytest.approx(pvariance(window) ** 0.5, rel=1e-9, abs=1e-6)


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.booleans()), max_size=40), st.integers(1, 25))
def test_what_does_not_count_has_no_part_in_the_moments(rows: list[tuple[float, bool]], n: int) -> None:
    counted = np.array([counts for _, counts in rows], dtype=np.bool_)
    values = np.array([value if counts else np.nan for value, counts in rows], dtype=np.float64)
    moments = rolling_moments(values, n, counted, block=BLOCK)
    sample = moments.sample_variance()
    for row in range(n - 1, len(rows)):
        window = [value for value, counts in rows[row - n + 1 : row + 1] if counts]
        assert moments.counted[row] == len(window)
        if len(window) < 2:
            assert np.isnan(sample[row])
        else:
            assert sample[row] == pytest.approx(variance(window), rel=1e-9, abs=1e-9)


def test_no_value_outlives_its_window() -> None:
    small = np.random.default_rng(1).random(200)
    after_large = np.concatenate([[1e18, -3.7e15], small])
    assert np.array_equal(
        rolling_sum(after_large, 20, block=BLOCK)[-180:], rolling_sum(small, 20, block=BLOCK)[-180:]
    )
    found, other = rolling_moments(after_large, 20, block=BLOCK), rolling_moments(small, 20, block=BLOCK)
    assert np.array_equal(found.squares[-180:], other.squares[-180:])


def test_equal_values_have_no_variance() -> None:
    assert (rolling_moments(np.full(30, 0.1), 20, block=BLOCK).population_deviation()[19:] == 0).all()
    # One unit in the last place of a price of 60,000 is no variance of a thousandth.
    moments = rolling_moments(np.full(30, 60_000.01), 20, block=BLOCK)
    assert (moments.mean[19:] == 60_000.01).all()
