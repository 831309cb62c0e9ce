"""What was measured, printed as a table at the end of the run."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table; ``aim`` is the most that is promised, None where nothing is."""

    name: str
    value: float
    unit: str
    aim: float | None


class Figures:
    """Collects them."""

    def __init__(self) -> None:
        self.all: list[Figure] = []

    def add(self, name: str, value: float, unit: str = "", *, aim: float | None = None) -> None:
        """Note one. No test fails because of it: a machine may be slow, or busy with other things."""
        self.all.append(Figure(name, value, unit, aim))

    def table(self) -> list[str]:
        width = max((len(figure.name) for figure in self.all), default=0)
        return [
            f"{figure.name:{width}}  {figure.value:10.3f} {figure.unit:4}{_judged(figure)}"
            for figure in self.all
        ]


def _judged(figure: Figure) -> str:
    if figure.aim is None:
        return ""
    return f"  at most {figure.aim:.3f}: {'kept' if figure.value <= figure.aim else 'MISSED'}"
