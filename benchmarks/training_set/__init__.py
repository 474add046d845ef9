"""The parts of benchmarks/dedup.py and dedup_languages.py. Makes the project importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
