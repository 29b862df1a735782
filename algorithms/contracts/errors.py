"""The two roots of every expected failure.

`DataError` and `ProtocolError` carry one line that a person can act on. Programming mistakes stay
`ValueError` and `TypeError`.
"""


class DataError(Exception):
    """What came in is wrong: the message names the file, series or field and says what to do."""


class ProtocolError(Exception):
    """The other party broke the agreement: the message names the rule that was broken."""
