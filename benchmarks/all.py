"""All timings that fit two CPU cores, one after the other; writes docs/performance.md from what they print.

    python benchmarks/all.py                 # all, on one core each, with nothing else running
    python benchmarks/all.py votes startup   # some: the others' sections stay as they were

What each measures, and how, is the docstring of its script. Learning has its own commands: learning.py, real_model.py.
"""

import argparse
import ast
import os
import platform
import subprocess
import sys
import time
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent
PAGE, FOLDER = ROOT / "docs" / "performance.md", ROOT / "outputs" / "performance"

# name -> script, and its arguments
PARTS = {
    "profile_tiny": ("profile_step.py", []),
    "profile_smollm2": ("profile_step.py", ["--model", "smollm2"]),
    "own_time": ("own_time.py", []),
    "step_tiny": ("step.py", []),
    "step_smollm2": ("step.py", ["--model", "smollm2"]),
    "engine": ("engine.py", []),
    "sampling_waste": ("sampling_waste.py", []),
    "diversity": ("diversity.py", []),
    "votes": ("votes.py", []),
    "evaluation": ("evaluation.py", []),
    "startup": ("startup.py", []),
    "scale": ("scale.py", []),
}
HEAD = """# Performance

What self-play costs beside what its tokens cost. Each table is printed by a script in `benchmarks/`; `python
benchmarks/all.py` runs them and writes this page, so edit the scripts and [what follows from them](performance_notes.md)
instead. Figures beside each other were measured in turns in one run.
"""


def processor() -> str:
    """Return the name of the processor as Linux gives it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def run(name: str) -> bool:
    """Run a part on one core and keep its section; return whether it succeeded."""
    script, arguments = PARTS[name]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    print(f"{name} ... ", end="", flush=True)
    began = time.perf_counter()
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    minutes = (time.perf_counter() - began) / 60
    if result.returncode != 0:
        print(f"FAILED after {minutes:.1f} minutes\n{result.stderr[-2000:]}", flush=True)
        return False
    print(f"{minutes:.1f} minutes", flush=True)
    printed = result.stdout[result.stdout.index("| ") :].strip()  # libraries print before it
    title, about = ast.get_docstring(ast.parse((ROOT / "benchmarks" / script).read_text())).split("\n\n", 1)
    about = "\n\n".join(part for part in about.split("\n\n") if not part.startswith("    "))
    shown = " ".join(["python", f"benchmarks/{script}", *arguments])
    made = f"`{shown}`, {time.strftime('%Y-%m-%d')}, {processor()}, {minutes:.1f} minutes."
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.md").write_text(f"## {title}\n\n{about}\n\n{printed}\n\n{made}\n")
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}")
    parts = parser.parse_args().parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}. Choose from {', '.join(PARTS)}.")
    done = [run(name) for name in parts]
    sections = [path.read_text() for name in PARTS if (path := FOLDER / f"{name}.md").exists()]
    PAGE.write_text("\n".join([HEAD, *sections]))
    sys.exit(0 if all(done) else 1)


if __name__ == "__main__":
    main()
