"""How long a user waits before a command says something.

    python benchmarks/startup.py

Seconds by the clock, the fastest of five, one core.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))


def fastest(command: list[str], folder: str, rounds: int = 5) -> float:
    """Return the seconds of the fastest of some rounds: the first reads files from the disk, others may be disturbed."""
    times = []
    for number in range(rounds):
        start = time.perf_counter()
        subprocess.run([part.format(number) for part in command], cwd=folder, capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    from demo_model import make_demo_model

    program = str(Path(sys.executable).parent / "serl-trl")
    commands = {
        "`serl-trl --help`": (0.1, [program, "--help"]),
        "`serl-trl plan --help`": (0.1, [program, "plan", "--help"]),
        "`serl-trl plan`": (1, [program, "plan", "--model", str(make_demo_model()), "--output", "{}.yaml"]),
        "`train.py --help`": (3, [sys.executable, str(ROOT / "train.py"), "--help"]),
        "beside it: `import torch`": (None, [sys.executable, "-c", "import torch"]),
        "beside it: `from trl import GRPOConfig, ModelConfig`": (
            None,
            [sys.executable, "-c", "from trl import GRPOConfig, ModelConfig"],
        ),
    }
    print("| command | wanted, s | s |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name, (wanted, command) in commands.items():
            print(f"| {name} | {wanted or ''} | {fastest(command, folder):.2f} |")


if __name__ == "__main__":
    main()
