"""How a filter run goes: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from factory.records import Cut
from factory.store import Store

log = logging.getLogger("factory")
LINE_SECONDS = 10.0


class Progress:
    """Shards done by all workers, images/s of this one, rows that could not be read."""

    def __init__(self, store: Store, cuts: Sequence[Cut], show: bool):
        self.store, self.total, self.show = store, len(cuts), show
        self.rows = self.refused = 0  # of this launch, in this process
        self.started: float | None = None
        self.ended: float | None = None
        self._line = time.perf_counter()
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        console = Console(stderr=True)
        already = len(self.store.marked())
        if self.show and console.is_terminal:
            columns = (TextColumn("shards"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn())
            self._bar = Bar(*columns, console=console)
            self._task = self._bar.add_task("shards", total=self.total, completed=already, note="")
            self._bar.start()
        elif self.show:
            log.info("%d shards%s", self.total, f", {already} already there" if already else "")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.ended = time.perf_counter()
        if self._bar is not None:
            self._bar.stop()

    def ready(self) -> None:
        """The models are loaded: rates count from here."""
        if self.started is None:
            self.started = time.perf_counter()

    def add(self, rows: int, refused: int) -> None:
        """A batch is scored."""
        self.rows += rows
        self.refused += refused
        if self._bar is not None:
            self._bar.update(self._task, note=self._note())
        elif self.show and time.perf_counter() - self._line > LINE_SECONDS:
            self._line = time.perf_counter()
            log.info("%d/%d shards  %s", len(self.store.marked()), self.total, self._note())

    def refresh(self) -> None:
        """A shard was handed out, or others are waited for."""
        if self._bar is not None:
            self._bar.update(self._task, completed=len(self.store.marked()))

    def seconds(self) -> float:
        """From models ready to the last shard written; 0 when nothing was scored."""
        return 0.0 if self.started is None else (self.ended or time.perf_counter()) - self.started

    def _note(self) -> str:
        unread = f", {self.refused} could not be read" if self.refused else ""
        return f"{self.rows / max(self.seconds(), 1e-6):.1f} images/s{unread}"
