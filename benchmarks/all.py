"""All timings that fit two CPU cores, one after the other; writes their tables into docs/performance.md.

    python benchmarks/all.py                 # all, on one core, with nothing else running
    python benchmarks/all.py votes startup   # some: the others' tables stay as they were

What each measures, and how, is the docstring of its script, which the page repeats. What follows from the tables is written
by hand above them. Learning has its own commands: learning.py, real_model.py.
"""

import argparse
import ast
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"

# name -> script, and its arguments
PARTS = {
    "profile_tiny": ("profile_step.py", []),
    "profile_smollm2": ("profile_step.py", ["--model", "smollm2"]),
    "own_time": ("own_time.py", []),
    "step_tiny": ("step.py", []),
    "step_smollm2": ("step.py", ["--model", "smollm2"]),
    "engine": ("engine.py", []),
    "adapter_sync": ("adapter_sync.py", []),
    "sampling_waste": ("sampling_waste.py", []),
    "diversity": ("diversity.py", []),
    "diversity_million": ("diversity.py", ["--admitted", "1000000"]),
    "votes": ("votes.py", []),
    "evaluation": ("evaluation.py", []),
    "startup": ("startup.py", []),
    "scale": ("scale.py", []),
}


def processor() -> str:
    """Return the name of the processor as Linux gives it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def run(name: str) -> str | None:
    """Run a part on one core; return its section of the page, `None` if it failed."""
    script, arguments = PARTS[name]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    print(f"{name} ... ", end="", flush=True)
    began = time.perf_counter()
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    minutes = (time.perf_counter() - began) / 60
    if result.returncode != 0:
        print(f"FAILED after {minutes:.1f} minutes\n{result.stderr[-2000:]}", flush=True)
        return None
    print(f"{minutes:.1f} minutes", flush=True)
    lines = result.stdout.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("| "))  # libraries print before it
    title, *about = ast.get_docstring(ast.parse((ROOT / "benchmarks" / script).read_text())).split("\n\n")
    about = [part for part in about if not part.startswith("    ")]  # without the commands
    shown = " ".join(["python", f"benchmarks/{script}", *arguments])
    made = f"`{shown}`, {time.strftime('%Y-%m-%d')}, {processor()}, {minutes:.1f} minutes."
    return "\n\n".join([f"## {title.rstrip('.')}", *about, "\n".join(lines[first:]).strip(), made]) + "\n"


def write(name: str, section: str | None) -> bool:
    """Put a section in its place on the page; return whether there was one."""
    if section is None:
        return False
    by_hand, *before = re.split(r"<!-- (\w+) -->\n\n", PAGE.read_text())
    sections = dict(zip(before[::2], before[1::2], strict=True)) | {name: section}
    tables = [f"<!-- {part} -->\n\n{sections[part].strip()}\n" for part in PARTS if part in sections]
    PAGE.write_text("\n".join([by_hand.strip() + "\n", *tables]))
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}")
    parts = parser.parse_args().parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}. Choose from {', '.join(PARTS)}.")
    finished = [write(name, run(name)) for name in parts]
    sys.exit(0 if all(finished) else 1)


if __name__ == "__main__":
    main()
