"""What was measured, printed as a table at the end of the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

_PROPERTY = "figure"


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table; ``aim`` is the most that is promised, None where nothing is."""

    name: str
    value: float
    unit: str
    aim: float | None


class Figures:
    """Notes what one test measures, in its report: tests may run in several processes."""

    def __init__(self, record_property: Callable[[str, object], None]) -> None:
        self._record = record_property

    def add(self, name: str, value: float, unit: str = "", *, aim: float | None = None) -> None:
        """Note one. No test fails because of it: a machine may be slow, or busy with other things."""
        self._record(_PROPERTY, dataclasses.astuple(Figure(name, value, unit, aim)))


def figures_of(properties: Iterable[tuple[str, object]]) -> list[Figure]:
    """What was noted in a report's properties."""
    return [Figure(*value) for name, value in properties if name == _PROPERTY and isinstance(value, tuple)]


def table(figures: Sequence[Figure]) -> list[str]:
    """The lines to print."""
    width = max((len(figure.name) for figure in figures), default=0)
    return [
        f"{figure.name:{width}}  {figure.value:10.3f} {figure.unit:4}{_judged(figure)}" for figure in figures
    ]


def _judged(figure: Figure) -> str:
    if figure.aim is None:
        return ""
    return f"  at most {figure.aim:.3f}: {'kept' if figure.value <= figure.aim else 'MISSED'}"
