from collections.abc import Iterator

from .sections import Section

class DynamicTag:
    needed: str

class DynamicSection(Section):
    def iter_tags(self, kind: str | None = None, /) -> Iterator[DynamicTag]: ...
