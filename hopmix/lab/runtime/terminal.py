"""What people see in a terminal: text without control characters, and a bar that shows life."""

from collections.abc import Callable, Iterator
from typing import Any

from rich.columns import Columns
from rich.console import Console, ConsoleOptions, ConsoleRenderable, Group, RenderHook
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.text import Text


def printable(text: str) -> str:
    """Text on one line without what would move a terminal's cursor or colour what follows."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


class _Cleaned:
    """What is printed, as text that is printable; styles and lines stay."""

    def __init__(self, renderable: ConsoleRenderable):
        self.renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self.renderable, options):
            text = "\n".join(map(printable, segment.text.split("\n")))
            yield segment if segment.control else Segment(text, segment.style)


class _Clean(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Cleaned(renderable) for renderable in renderables]


def terminal(**options: Any) -> Console:
    """A console that prints names from files, data sets and folders as text and nothing else."""
    console = Console(highlight=False, **options)
    console.push_render_hook(_Clean())
    return console


class TrainingBar:
    """Steps done and in all with the time left, and below them the current losses; nothing off a
    terminal.

    It turns while programs are compiled. Each arm's loss is whole on a line, and none takes the
    place of the count.
    """

    def __init__(self, console: Console, total: int):
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            expand=True,
        )
        self._task = self._progress.add_task("compiling", total=total)
        self._live = (
            Live(self._progress, console=console, auto_refresh=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Callable[[Any], None]:
        if self._live is not None:
            self._live.start()
        return self._update

    def __exit__(self, *exception: object):
        if self._live is not None:
            self._live.stop()

    def _update(self, progress: Any):
        self._progress.update(self._task, completed=progress.step, description="step")
        if self._live is not None:
            losses = [
                Text(f"{printable(name)} {loss:.3f}", style="dim")
                for name, loss in progress.losses.items()
            ]
            below = Columns(losses, padding=(0, 2))
            self._live.update(Group(self._progress, Text("validation loss", style="dim"), below))
