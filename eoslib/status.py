"""How a numerical routine ended: a number inside traced code, a sentence outside.

>>> class Light(Status):
...     GREEN = "go"
...     RED = "stop"
>>> int(Light.RED), Light(1).message
(1, 'stop')
"""

import enum


class Status(enum.IntEnum):
    """Base of all statuses: a member is declared by its sentence, its ``message``, and numbered from 0 in order."""

    message: str

    def __new__(cls, message: str):
        """Number the member and keep its sentence."""
        member = int.__new__(cls, len(cls.__members__))
        member._value_, member.message = len(cls.__members__), message
        return member
