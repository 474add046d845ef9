"""How far estimates are from measurements: published runs of MaxText, whose programs are compiled and estimated alike.

benchmarks/calibration.py compiles them and writes benchmarks/calibration.md, from which the ratios are.
"""

# measured tokens/s over estimated tokens/s of each run, by generation
RATIOS: dict[str, tuple[float, ...]] = {
    "v5p": (1.058, 0.965),  # Llama 2 70B on v5p-512, Llama 3.1 405B on v5p-1024
}


def ratios(chip: str) -> tuple[float, ...]:
    """The ratios of the runs on a generation; of all runs if there is none on it."""
    return RATIOS.get(chip) or tuple(ratio for each in RATIOS.values() for ratio in each)


def accuracy(chip: str = "") -> str:
    """A sentence on the runs on a generation, or on each."""
    parts = [
        f"{min(each):.2f} to {max(each):.2f} on {name} ({len(each)})"
        for name, each in RATIOS.items()
        if not chip or name == chip
    ]
    return f"The speed of published runs of MaxText is that of their estimates times {', '.join(parts)}."
