"""Something that runs until it is stopped."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Running(ABC):
    """Stopped at the end of a ``with`` block."""

    @abstractmethod
    def stop(self) -> object:
        """End it; what came of it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
