"""Who may change something on the study page: hospital IT, by the name that the audit log keeps."""

import os

_STAND_IN = "FEDGTV_UI_HOSPITAL_IT"  # until accounts are there


def hospital_it() -> str | None:
    """Return the user name of who is signed in, when that is hospital IT; None for all others."""
    return os.environ.get(_STAND_IN) or None
