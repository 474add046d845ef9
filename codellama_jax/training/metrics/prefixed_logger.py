"""Messages to the user about a stage."""

import logging
from collections.abc import MutableMapping
from typing import Any


class PrefixedLogger(logging.LoggerAdapter[logging.Logger]):
    """Adds the name of the stage to messages. Of several hosts only one is enabled; the others log nothing."""

    def __init__(self, logger: logging.Logger, stage: str, enabled: bool):
        super().__init__(logger)
        self._stage, self._enabled = stage, enabled

    def isEnabledFor(self, level: int) -> bool:
        """Whether messages of this level are logged."""
        return self._enabled and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Adds the stage to a message."""
        return f"{self._stage}: {msg}", kwargs
