"""The progress display of a training: a bar on a terminal, lines elsewhere, and no dictionaries of the trainer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from harness_ext.engine.progress import LINE_EVERY, NOBODY_READS, SILENT_AT_MOST, as_clock

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from transformers import TrainerCallback


class TrainingProgress:
    """Shows the progress of one stage, as a context manager around its training.

    A terminal gets a bar. Elsewhere, a line follows a log entry if the last line is at least `LINE_EVERY` seconds old,
    a step if it is at least `SILENT_AT_MOST` seconds old, and every evaluation and checkpoint. The last two are also
    written above the bar.

    stage: which of several stages this is (`stage 1 of 2`). Default: it is the only one.
    epochs: the number of epochs; None if the number of steps decides when the training ends. Default None.
    shown: whether to show anything, which only one process of a training should do. Default true.
    terminal: whether to draw a bar instead of printing lines. Default None: a bar if `stream` is a terminal.
    stream: where to write. Default: standard error.
    clock: returns the time in seconds. Default: the system's monotonic clock.
    """

    def __init__(
        self,
        stage: str = "",
        epochs: float | None = None,
        shown: bool = True,
        terminal: bool | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stage = stage
        self.epochs = epochs
        self.shown = shown
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty() if terminal is None else terminal
        self.first = self.step = self.total = 0
        self._clock = clock
        self._epoch = 0.0
        self._losses: dict[str, float] = {}
        self._measured = 0
        self._started = self._marked = self._said = clock()
        self._ended: float | None = None
        self._bar: Bar | None = None

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = self._clock()
        self._measured = 0
        self._draw()
        if self._bar is not None:
            with suppress(*NOBODY_READS):
                self._bar.stop()
            self._bar = None

    @property
    def seconds(self) -> float:
        """Return the seconds from the training's beginning, or since it was resumed, to now or to its end."""
        return (self._clock() if self._ended is None else self._ended) - self._started

    # -- what happens ----------------------------------------------------------------------------------------------

    def begin(self, step: int, total: int) -> None:
        """The training begins, or continues after a step.

        step: the step after which it continues; 0 from the beginning.
        total: the number of the last step.
        """
        self.first = self.step = step
        self.total = total
        self._started = self._marked = self._said = self._clock()
        if self.shown and self.terminal:
            self._bar = self._new_bar()
        elif self.shown:
            self._print(f"{self._place()}: training {'continues' if step else 'begins'}")

    def end_step(self, step: int, epoch: float, logged: bool = False) -> None:
        """A step is finished.

        step: its number.
        epoch: how many epochs the steps so far make, as a fraction.
        logged: whether a log entry follows, whose line has the newer loss. Default false.
        """
        self.step, self._epoch = step, epoch
        self._marked = self._clock()
        self._draw()
        if not logged and self._marked - self._said >= SILENT_AT_MOST:
            self._line()

    def log(self, loss: float) -> None:
        """The trainer has logged the mean loss of the steps since its last entry."""
        self._losses["loss"] = loss
        self._draw()
        if self._clock() - self._said >= LINE_EVERY:
            self._line()

    def measured(self) -> None:
        """A batch of validation rows was measured."""
        self._measured += 1
        self._draw()

    def evaluated(self, loss: float | None) -> None:
        """The validation rows were measured; `loss` is their mean loss, None if the trainer computes none."""
        self._measured = 0
        self._marked = self._clock()
        if loss is not None:
            self._losses["validation loss"] = loss
        self._draw()
        self._line()

    def saved(self, name: str) -> None:
        """A checkpoint was saved, and is complete."""
        self._marked = self._clock()
        self._line(f"saved {name}")

    # -- what is shown ---------------------------------------------------------------------------------------------

    def times(self) -> str:
        """Return how long the training has run and, once a step is finished, how long it still needs.

        The rest is estimated from the mean time of the steps since the beginning, or since the training was resumed,
        evaluations and checkpoints included.
        """
        now = self._clock()
        done, rest = self.step - self.first, self.total - self.step
        if not done or rest <= 0:
            return as_clock(now - self._started)
        each = (self._marked - self._started) / done
        # Within a step, the time goes down; within an evaluation or a checkpoint, which take longer, it stays.
        left = each * rest - min(now - self._marked, each)
        return f"{as_clock(now - self._started)}, {as_clock(left)} left"

    def status(self) -> str:
        """Return how far an evaluation is, the losses and the epoch as one line of text."""
        measured = [f"validation batch {self._measured}"] if self._measured else []
        losses = [f"{name} {loss:.4g}" for name, loss in list(self._losses.items())]  # a thread draws
        epoch = f"epoch {self._epoch:.2f}" + (f" of {self.epochs:g}" if self.epochs else "")
        return ", ".join([*measured, *losses, epoch])

    def _place(self) -> str:
        stage = f"{self.stage}: " if self.stage else ""
        return f"{stage}{self.step}/{self.total} steps"

    def _line(self, what: str = "") -> None:
        if self.shown:
            self._print(f"{self._place()} in {self.times()}: {what or self.status()}")

    def _print(self, text: str) -> None:
        self._said = self._clock()
        with suppress(*NOBODY_READS):
            if self._bar is None:
                print(f"[harness-ext] {text}", file=self.stream, flush=True)
            else:
                self._bar.refresh()  # the line appears above the bar as it was drawn last
                self._bar.console.print(f"[harness-ext] {text}", markup=False, highlight=False, soft_wrap=True)

    def _draw(self) -> None:
        if self._bar is not None:
            with suppress(*NOBODY_READS):
                self._bar.update(self._task, completed=self.step)

    def _new_bar(self) -> Bar:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn
        from rich.progress import Progress as Bar
        from rich.table import Column
        from rich.text import Text

        class Now(ProgressColumn):
            """Shows what a function returns at the time of drawing, so that times go on between two steps."""

            def __init__(self, show: Callable[[], str], table_column: Column) -> None:
                super().__init__(table_column)
                self.show = show

            def render(self, task: Any) -> Text:
                return Text(self.show(), no_wrap=True, overflow="ellipsis")

        bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12, table_column=Column(no_wrap=True)),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            Now(self.times, Column(no_wrap=True)),
            Now(self.status, Column()),  # the only one that is cut off on a narrow terminal
            console=Console(file=self.stream),
            refresh_per_second=4,
            # Otherwise what a library prints would leave standard output, which may be a file, for this stream.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = bar.add_task(self.stage or "steps", total=self.total, completed=self.step)
        bar.start()
        return bar


def progress_callback(progress: TrainingProgress) -> TrainerCallback:
    """Return the callback that tells a progress display what the trainer does."""
    from transformers import TrainerCallback

    class Show(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            progress.begin(state.global_step, state.max_steps)

        def on_step_end(self, _: Any, state: Any, control: Any, **__: Any) -> None:
            progress.end_step(state.global_step, float(state.epoch or 0), logged=control.should_log)

        def on_log(self, *_: Any, logs: dict[str, Any] | None = None, **__: Any) -> None:
            if logs and "loss" in logs:
                progress.log(float(logs["loss"]))

        def on_prediction_step(self, *_: Any, **__: Any) -> None:
            progress.measured()

        def on_evaluate(self, *_: Any, metrics: dict[str, Any] | None = None, **__: Any) -> None:
            loss = (metrics or {}).get("eval_loss")
            progress.evaluated(None if loss is None else float(loss))

        def on_save(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            progress.saved(f"checkpoint-{state.global_step}")

    return Show()
