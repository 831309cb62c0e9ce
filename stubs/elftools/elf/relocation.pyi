from collections.abc import Iterator
from typing import Any

from .sections import Section

class Relocation:
    def __getitem__(self, name: str) -> Any: ...

class RelocationSection(Section):
    def iter_relocations(self) -> Iterator[Relocation]: ...
