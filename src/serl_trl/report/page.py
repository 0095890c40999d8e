"""The report: one HTML page that needs no network and no other file."""

import base64
import hashlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from .. import __version__
from ..atomic_write import atomic_write
from ..hub.run_record import RunRecord
from ..self_play.funnel import REASONS
from ..self_play.settings import METHODS
from . import charts, counts, curves, drift
from .gain import gains
from .reading import Run, read_runs
from .warning_signs import warning_signs


logger = logging.getLogger(__name__)

# The leading underscore keeps it out of what is pushed: it holds the seeds' text.
REPORT_FILE = "_report.html"
COMPARISON_FILE = "_comparison.html"  # beside it: the next checkpoint's report must not take its place
_SHARES = ("share in the band", "truncated completions", "right pseudo-labels", "near the seeds")


def write_report(run: str | os.PathLike, compare: str | os.PathLike | None = None) -> Path:
    """Write the page about a run, or about its iterations, into its folder, and return its path.

    Args:
        run (`str` or `PathLike`): The run's folder; it may go on meanwhile.
        compare (`str` or `PathLike`, *optional*): Another run's folder, which is shown beside it.

    Raises:
        ValueError: As in [`read_runs`], for either folder.
        WriteError: if the disk takes no more.
    """
    runs = read_runs(run) + ([] if compare is None else read_runs(compare))
    path = Path(run) / (REPORT_FILE if compare is None else COMPARISON_FILE)
    page = render(runs)
    with atomic_write(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    return path


def write_or_warn(run: str | os.PathLike, make_record: Callable[[], RunRecord] | None = None) -> Path | None:
    """Write the page of a run that trains; a failure is a warning with its reason, and `None` is returned.

    `make_record` makes the record, where the run has not written it yet.
    """
    try:
        if make_record is not None:
            make_record().save(run)
        return write_report(run)
    except Exception as error:  # whatever it is, a run of hours is worth more than its page
        logger.warning(f"There is no new report of {run}. {type(error).__name__}: {error}")
        return None


def render(runs: list[Run]) -> str:
    """Return the page of several runs beside each other, as HTML in which every text of theirs is escaped."""
    environment = Environment(
        loader=PackageLoader("serl_trl"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = counts.short
    script = environment.get_template("report.js").render()
    views = [_view(run, counts.SHOWN // len(runs)) for run in runs]
    return environment.get_template("report.html").render(
        script=script,
        # No other script runs in the page, whatever a text may hold, and nothing is loaded.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        series=charts.SERIES,
        written=time.strftime("%Y-%m-%d %H:%M"),
        version=__version__,
        views=views,
        curves=_curve_charts(runs, views),
        histograms=_histograms(runs),
        reasons=REASONS,
        records=_records(runs),
    )


def _view(run: Run, most: int) -> dict:
    """Return what the template shows of one run."""
    gate = drift.gate_of(run)
    shown = drift.judged(counts.shown_rows(run, most), gate)
    rewards, pass_rates = curves.logged(run, "reward"), curves.logged(run, "self_rewarding/pass_rate")
    return {
        "run": run,
        "shown": shown,
        "trained": len(run.trained),
        "rewards": [rewards[0][1], rewards[-1][1]] if rewards else [],
        "pass_rate": sum(rate for _, rate in pass_rates) / len(pass_rates) if pass_rates else None,
        "gains": gains(run),
        "signs": warning_signs(run, shown),
        "funnel": counts.funnel(run),
        "rejected": counts.rejected(run),
        "examples": counts.rejected_examples(run),
        "drift": drift.by_thirds(run, shown),
        "words": drift.changed_words(run),
        "gate": gate and gate.describe(),
    }


def _curve_charts(runs: list[Run], views: list[dict]) -> dict[str, str | None]:
    """Return a chart for each curve by its title; `None` where no run has one."""
    found, series = {}, [curves.curves(run) for run in runs]
    evaluated = [curves.evaluated(run) for run in runs]
    for name in dict.fromkeys(name for one in evaluated for name in one):
        found[f"pass@1 ({name}), with 95 % intervals"] = charts.interval_chart(
            [one.get(name, []) for one in evaluated]
        )
    series = [
        one | {"near the seeds": drift.near_curve(view["shown"])} for one, view in zip(series, views, strict=True)
    ]
    for title in series[0]:
        lines = [one[title] for one in series]
        found[title] = charts.curve_chart(lines, title in _SHARES) if any(lines) else None
    return found


def _histograms(runs: list[Run]) -> list[str]:
    parts = [[counts.shares_by_pass_rate(part) for part in counts.thirds(run.rows)] for run in runs]
    bands = [_band(run) for run in runs]
    return [charts.histogram_chart([part[third] for part in parts], bands) for third in range(3)]


def _band(run: Run) -> tuple[float, float] | tuple[()]:
    """Return the lowest and highest pass rate that was trained on; nothing while the settings are not known."""
    if run.record is None:
        return ()
    settings = METHODS[run.record.settings.get("method", "trusted")] | run.record.settings
    floor = settings["min_pass_rate"]
    return ((run.evidence and run.evidence.floor(floor)) or floor, settings["max_pass_rate"])


def _records(runs: list[Run]) -> dict[str, dict[str, list[str]]]:
    """Return settings and versions, a value for each run, by heading and name."""
    records = [run.record for run in runs]
    found = {}
    for heading in ("settings", "versions"):
        values = [getattr(record, heading, None) or {} for record in records]
        names = sorted({name for one in values for name in one})
        found[heading] = {name: [str(one.get(name, "")) for one in values] for name in names}
    return found
