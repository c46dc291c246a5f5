"""Configuration and environment: what was asked for, and where it ran."""

from html import escape

from hopmix.lab.report import html
from hopmix.lab.report.section import Section, StaticFigures
from hopmix.lab.store.run import Run


def body(run: Run, static_figures: StaticFigures) -> str:
    """Data, configuration, environment and timing, folded away."""
    study = run.study
    parts = {
        "Data": study.get("data", {}),
        "Configuration": study.get("config", {}),
        "Environment": study.get("environment", {}),
        **{
            f"Environment when resumed, {r['created']}": r["environment"]
            for r in study.get("resumed", [])
        },
        "Time in seconds": (run.results or {}).get("timing", {}),
    }
    command = f"<p><code>{escape(str(study.get('command', '')))}</code></p>"
    return command + "\n".join(
        html.fold(title, html.pairs(values)) for title, values in parts.items() if values
    )


SECTION = Section("configuration", "Configuration and environment", body)
