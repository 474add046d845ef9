"""The shares of wall time that steps and overhead take."""

import pytest

from codellama_jax.report.goodput import goodput


def test_shares_account_for_all_wall_time():
    lines = [{"seconds": 1.0} for _ in range(9)]
    lines[0] |= {"seconds": 4.0, "startup_seconds": 3.0}
    lines[4] |= {"save_seconds": 0.5, "validation_seconds": 0.5}
    lines[5] |= {"lost_seconds": 2.0, "down_seconds": 2.0}
    shares = goodput(lines)
    assert sum(shares.values()) == pytest.approx(1)
    seconds = {cause: share * 20 for cause, share in shares.items()}
    assert seconds == pytest.approx(
        {"steps": 9, "compilation": 3, "startup": 3, "validation": 0.5, "save": 0.5, "lost": 2, "down": 2}
        | {"benchmarks": 0, "infilling": 0}
    )
    assert goodput([]) == {}
