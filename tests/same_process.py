"""Measurements in the process of the test."""

from typing import Any, Callable


class SameProcess:
    """Stands where a ``FreshProcess`` does; a test needs no other."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self.built = build()

    def ask(self, method: str) -> Any:
        return getattr(self.built, method)()

    def close(self) -> None:
        pass
