"""The tables of benchmarks/gpu.py, from what its parts measured."""

import statistics
from datetime import date

from serl_trl.markdown import table
from serl_trl.memory import GIB


TITLES = {
    "steps": "SeRL",
    "grpo": "GRPOTrainer",
    "lora": "SeRL, LoRA",
    "sleep": "SeRL, sleep mode",
}
NO_GPU = "not measured on a CPU"
DIFFERENCE = "sampling/sampling_logp_difference"


def report(found: dict[str, dict], arguments: dict, command: str, commit: str) -> str:
    """Return all tables as Markdown, with the machine and the command."""
    machine = next(iter(found.values()))["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    memory = f", {machine['memory'] / GIB:.1f} GiB, CUDA {machine['cuda']}" if machine["memory"] else ""
    parts = [
        f"{date.today()}, {machine['device']}{memory}; {versions}; commit {commit}; {arguments['model']}.\n\n    {command}"
    ]
    trained = {part: found[part] for part in TITLES if part in found}
    if trained:
        parts += [time_table(trained), memory_table(trained)]
    if "lora" in found:
        parts.append(sync_table(found["lora"]))
    if "learning" in found:
        parts += learning_tables(found["learning"])
    return "\n\n".join(parts)


def measured_steps(part: dict) -> list[dict]:
    """Return the steps without the first ones, which warm up: three, or fewer of a short run."""
    steps = part["steps"]
    return steps[min(3, len(steps) // 2) :]


def mean(values) -> float | None:
    """Return the mean, `None` of nothing."""
    values = list(values)
    return statistics.mean(values) if values else None


def number(value: float | None, form: str = ".2f", none: str = "-") -> str:
    return none if value is None else format(value, form)


def time_table(parts: dict[str, dict]) -> str:
    """Return seconds and tokens of a step, and how far engine and trainer are apart."""
    columns = [times(part, is_grpo=name == "grpo") for name, part in parts.items()]
    lines = [[name, *(column[name] for column in columns)] for name in columns[0]]
    warm_up = {len(part["steps"]) - len(measured_steps(part)) for part in parts.values()}
    return (
        f"## Seconds and tokens of a step\n\nMeans over the steps after the first {max(warm_up)}. In SeRL, sampling and "
        "self-instruction are all of the stage, vLLM and weight sync included. Log-probability differences are of "
        f"all steps without groups that older weights sampled.\n\n{table([TITLES[name] for name in parts], lines)}"
    )


def times(part: dict, is_grpo: bool) -> dict[str, str]:
    """Return the cells of a column, by row."""
    steps = measured_steps(part)
    seconds = mean(step["seconds"] for step in steps)

    def stage(name: str) -> float:
        return mean(step["stages"].get(name, 0.0) for step in steps)

    def count(name: str) -> float:
        return mean(step["counts"].get(name, 0) for step in steps)

    def logged(name: str) -> float:
        return mean(step["log"].get(name, 0.0) for step in steps)

    if is_grpo:
        stages = {"self-instruction": None, "sampling answers": stage("vLLM") + stage("sync")}
    else:
        stages = {"self-instruction": logged("time/self_instruction"), "sampling answers": logged("time/sampling")}
    stages["vote, or comparing with true answers"] = logged("time/vote") + stage("reward")
    rate = count("sampled tokens") / stage("vLLM") if stage("vLLM") else None  # all were surplus: nothing was sampled
    rest = seconds - sum(value for value in stages.values() if value is not None)
    fresh = [step["log"] for step in part["steps"] if not step["log"].get("self_rewarding/stale_groups")]
    fresh = [log for log in fresh if log.get(f"{DIFFERENCE}/mean") is not None]
    return {
        "seconds of a step": number(seconds),
        **{name: number(value) for name, value in stages.items()},
        "log-probabilities and update": number(rest),
        "of all, in vLLM": number(stage("vLLM")),
        "of all, in weight sync": number(stage("sync")),
        "weight syncs": number(count("sync calls"), ".1f"),
        "tokens sampled": number(count("sampled tokens"), ",.0f"),
        "tokens sampled a second of vLLM": number(rate, ",.0f"),
        "tokens trained": number(count("trained tokens"), ",.0f"),
        "tokens trained a second of the step": number(count("trained tokens") / seconds, ",.0f"),
        "rounds of self-instruction": "-" if is_grpo else number(logged("self_instruction/rounds"), ".1f"),
        "reward": number(logged("reward")),
        "log-probability difference, mean": number(mean(log[f"{DIFFERENCE}/mean"] for log in fresh), ".2g"),
        "log-probability difference, largest": number(
            max((log[f"{DIFFERENCE}/max"] for log in fresh), default=None), ".2g"
        ),
    }


def memory_table(parts: dict[str, dict]) -> str:
    """Return what was measured and what `serl-trl plan` says, in GiB."""
    columns = [memory(part) for part in parts.values()]
    names = dict.fromkeys(name for column in columns for name in column)
    lines = [[name, *(column.get(name, "-") for column in columns)] for name in names]
    return (
        "## Memory, in GiB\n\nPlanned for the batch and the longest prompts and completions that were trained. Measured by "
        "torch in the trainer's process, which vLLM shares; and of the device, of all processes, less what was in use "
        "before the model was loaded (the CUDA context). With sleep mode torch still counts what vLLM has given back: "
        f"compare the device's at the end of a step.\n\n{table([TITLES[name] for name in parts], lines)}"
    )


def memory(part: dict) -> dict[str, str]:
    """Return the cells of a column, by row."""
    planned, found, work = part["planned"], part["memory"], part["workload"]
    cells = {f"planned: {name}": number(value / GIB) for name, value in planned.items() if value}
    cells["planned"] = number(sum(planned.values()) / GIB)
    measured = dict.fromkeys(
        ("torch, when loaded", "torch, peak", "torch, peak reserved", "device, peak", "device, at the end of a step"),
        NO_GPU,
    )
    if found:
        in_use = statistics.median(step["in use"] for step in measured_steps(part))
        values = [found["started"], found["allocated"], found["reserved"]]
        values += [found["peak"] - found["before"], in_use - found["before"]]
        measured = {name: number(value / GIB) for name, value in zip(measured, values, strict=True)}
        measured["planned / torch's peak"] = number(sum(planned.values()) / found["allocated"])
    lengths = f"{work['per_device_train_batch_size']} of {work['prompt_length']} + {work['completion_length']}"
    return cells | measured | {"batch, tokens of prompt + completion": lengths}


def sync_table(lora: dict) -> str:
    """Return seconds of a weight sync, and what it does to the base."""
    syncs = lora["syncs"]
    lines = []
    for name in ("serl-trl", "TRL"):
        seconds = syncs[name]["seconds"]
        lines.append([name, number(statistics.median(seconds), ".3f"), f"{100 * syncs[name]['changed']:.3f} %"])
    return (
        f"## LoRA: pushing the weights to vLLM\n\nThe adapter of each of {len(syncs['TRL']['seconds'])} steps pushed once "
        "more, by copies merged a layer at a time (serl-trl) and by merging into the base and subtracting again (TRL). "
        f"After the training itself, {100 * syncs['changed after training']:.3f} % of the base's weights had other "
        f"bits.\n\n{table(['seconds, median', 'base weights changed'], lines)}"
    )


def learning_tables(learning: dict) -> list[str]:
    """Return accuracy before and after, the curve, and what was trained on."""
    lines = []
    for name, before in learning["before"].items():
        after, change = learning["after"][name], learning["difference"].get(name)
        cells = [
            f"{100 * cell['value']:.1f} [{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]"
            for cell in (before, after)
        ]
        if change:
            cells.append(
                "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * change[key] for key in ("difference", "low", "high")))
            )
        lines.append([name, *cells, *[""] * (3 - len(cells))])
    fates = ", ".join(
        f"{count} {fate}" for fate, count in sorted(learning["fates"].items(), key=lambda item: -item[1])
    )
    return [
        "## Learning: held-out questions, in %, with 95 % intervals\n\n"
        + table(["before", "after", "difference"], lines),
        "## Learning: means of ten steps\n\n" + rows_table(learning["curve"]),
        "## Learning: what was trained on, by thirds of the run\n\n"
        f"{rows_table(learning['labels'])}\n\nCandidates: {fates}.",
    ]


def rows_table(rows: list[dict]) -> str:
    """Return a table with a line for each row, the first value of which is its name."""
    first, *names = rows[0]
    lines = [
        [str(row[first]), *(number(row[name], "" if isinstance(row[name], int) else ".3g") for name in names)]
        for row in rows
    ]
    return table(names, lines)
