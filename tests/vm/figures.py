"""What was measured, printed as a table at the end of the run."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table; ``limit`` is the most that is right, None where nothing is promised."""

    name: str
    value: float
    unit: str
    limit: float | None


class Figures:
    """Collects them."""

    def __init__(self) -> None:
        self.all: list[Figure] = []

    def add(self, name: str, value: float, unit: str, limit: float | None = None) -> None:
        """Note one, and fail the test if it is over its limit."""
        self.all.append(Figure(name, value, unit, limit))
        assert limit is None or value <= limit, f"{name}: {value:.3f} {unit}, at most {limit} is right"

    def table(self) -> list[str]:
        width = max((len(figure.name) for figure in self.all), default=0)
        return [
            f"{figure.name:{width}}  {figure.value:10.3f} {figure.unit:4}"
            + (f"  (at most {figure.limit:g})" if figure.limit is not None else "")
            for figure in self.all
        ]
