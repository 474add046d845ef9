"""The mixing function of SplitMix64."""

import numpy as np

# Steele, Lea and Flood's generator with Stafford's constants (variant 13).
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def mix(values: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit integers; every output bit depends on all input bits. uint64 [...] to uint64 [...]."""
    values = values ^ (values >> 30)
    values *= _FACTORS[0]
    values ^= values >> 27
    values *= _FACTORS[1]
    values ^= values >> 31
    return values
