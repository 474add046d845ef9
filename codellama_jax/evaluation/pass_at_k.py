"""pass@k, and confidence intervals of means over tasks."""

import math
from collections.abc import Sequence

Z_95 = 1.959963984540054  # a normal variable is within this many standard deviations with probability 95%


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The unbiased estimate of the probability that at least one of k samples passes (arXiv 2107.03374, section 2.1).

    1 - C(n - c, k) / C(n, k) for c passed of n samples, as a product that does not overflow.

    Raises:
        ValueError: there are fewer than k samples, so that there is no unbiased estimate.
    """
    if not 1 <= k <= samples or not 0 <= passed <= samples:
        raise ValueError(f"pass@{k} of {passed} passed of {samples} samples does not exist")
    if samples - passed < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(samples - passed + 1, samples + 1))


def interval(values: Sequence[float], samples: int = 0) -> tuple[float, float]:
    """The 95% confidence interval of the mean of values between 0 and 1, one for each task.

    Wilson's score interval, which also holds near 0 and 1. The values of tasks with several samples vary less than
    those of one sample; the number of tasks is replaced by the number of single samples whose mean would vary as much.

    Args:
        values: one for each task, at least one.
        samples: number of samples of all tasks, which that number does not exceed; 0: one for each task.
    """
    tasks = len(values)
    mean = math.fsum(values) / tasks
    variance = math.fsum((value - mean) ** 2 for value in values) / tasks
    spread = mean * (1 - mean)
    # at least that number, also where rounding makes the spread smaller than the variance
    effective = max(float(tasks), min(tasks * spread / variance, samples)) if variance > 0 else float(tasks)
    scale = 1 + Z_95**2 / effective
    middle = (mean + Z_95**2 / (2 * effective)) / scale
    half = Z_95 / scale * math.sqrt(max(spread, 0.0) / effective + (Z_95 / (2 * effective)) ** 2)
    # exactly 0 and 1 where no rounding should show
    return max(0.0, middle - half) if mean > 0 else 0.0, min(1.0, middle + half) if mean < 1 else 1.0
