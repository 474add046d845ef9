"""How far estimates are from measurements: published runs of MaxText, whose programs are compiled and estimated alike.

benchmarks/calibration.py compiles them; the ratios are from benchmarks/calibration.md. Each program has as much on-chip
memory as the bundle "fast" gives (libtpu_flags.py), with which plans are compiled. With the default of the compiler,
estimates are slower: Llama 2 70B on v5p then ran at 1.06 times its estimate, and 32B on v5e at 1.29 times.
"""

# measured tokens/s over estimated tokens/s of each run, by generation
RATIOS: dict[str, tuple[float, ...]] = {
    "v5e": (1.017,),  # 32B on v5e-256
    "v5p": (0.901, 0.965),  # Llama 2 70B on v5p-512, Llama 3.1 405B on v5p-1024
    "v6e": (0.866, 1.062),  # Llama 2 70B and Llama 3.1 8B on v6e-256
    "tpu7x": (0.964,),  # Llama 3.1 70B on tpu7x-128
}


def ratios(chip: str) -> tuple[float, ...]:
    """The ratios of the runs on a generation; of all runs if there is none on it."""
    return RATIOS.get(chip) or tuple(ratio for each in RATIOS.values() for ratio in each)


def accuracy() -> str:
    """A sentence on the runs on each generation."""
    parts = [f"{' and '.join(f'{ratio:.2f}' for ratio in each)} on {name}" for name, each in RATIOS.items()]
    return f"The speed of published runs of MaxText is that of their estimates times {', '.join(parts)}."
