"""The gain that `make demo` shows, over five random seeds; the demo's own is that of the median gain.

python benchmarks/demo_seeds.py
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory


ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from demo import be_quiet, gain_lines, show_gain  # noqa: E402


def main() -> None:
    be_quiet()
    found = {}
    for seed in range(5):
        with TemporaryDirectory() as folder:
            found[seed] = show_gain(Path(folder) / "small", seed)
    for seed, gains in found.items():
        print(f"\nseed {seed}\n{gain_lines(gains)}")
    median = sorted(found, key=lambda seed: found[seed]["pass@1"]["difference"])[2]
    print(f"\nThe median gain in pass@1 is that of seed {median}.")


if __name__ == "__main__":
    main()
