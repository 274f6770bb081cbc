"""How a numerical routine ended: a number inside traced code, a sentence outside.

>>> class Light(Status):
...     GREEN = "go"
...     RED = "stop"
>>> int(Light.RED), Light(1).message, Light.words(np.array([0, 1]))
(1, 'stop', ['go', 'stop'])
"""

from __future__ import annotations

import enum
from typing import Any

import numpy as np


class Status(enum.IntEnum):
    """Base class of all statuses; a member is declared by its sentence, ``message``, and numbered from 0 in order."""

    message: str

    def __new__(cls, message: str):
        """Number the member and keep its sentence."""
        member = int.__new__(cls, len(cls.__members__))
        member._value_, member.message = len(cls.__members__), message
        return member

    @classmethod
    def words(cls, status: Any) -> Any:
        """Return the sentence of a status array, or a list of them for a batch; outside of traced code only."""
        return cls(int(status)).message if np.ndim(status) == 0 else [cls.words(one) for one in np.asarray(status)]
