"""Progress that people see while long steps run."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from site_agent.config import SiteHome
from site_agent.live_progress import ProgressWriter, clear_progress

if TYPE_CHECKING:  # it would load torch, which reading images has no use for
    from algorithms.training import Progress as TrainingProgress

console = Console(stderr=True)


@contextmanager
def progress_bar(what: str, home: SiteHome | None = None) -> "Iterator[TrainingProgress]":
    """Show a bar on a terminal, or a line every few steps in a log.

    Args:
        what: the step.
        home: of the site whose worker does it: its pages show the bar too. None: nobody's.

    Yields:
        A function of (done, total, loss); a negative loss is not shown.
    """
    if home is None:
        with _console_bar(what) as show:
            yield show
        return
    told = ProgressWriter(home, what)
    with _console_bar(f"{home.config.name}: {what}") as show:

        def tell(done: int, total: int, loss: float) -> None:
            show(done, total, loss)
            told.update(done, total, loss)

        yield tell
    clear_progress(home)  # not after a failure: the pages tell how far it came


@contextmanager
def _console_bar(what: str) -> "Iterator[TrainingProgress]":
    if not console.is_terminal:
        yield _plain(what)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None, note="")

        def update(done: int, total: int, loss: float) -> None:
            note = f"loss {loss:.3f}" if loss >= 0 else ""
            bar.update(task, completed=done, total=total, note=note)

        yield update


def _plain(what: str) -> "TrainingProgress":
    shown = 0.0

    def update(done: int, total: int, loss: float) -> None:
        nonlocal shown
        share = done / max(total, 1)
        if share < 1.0 and share - shown < 0.25:
            return
        shown = share
        note = f", loss {loss:.3f}" if loss >= 0 else ""
        console.print(f"{what}: {done}/{total}{note}", highlight=False)

    return update
