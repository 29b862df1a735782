"""Who may change something on the study page: hospital IT, by the name that the audit log keeps."""

from clinical_ui import sign_in


def hospital_it() -> str | None:
    """Return the user name of who is signed in, when that is hospital IT; None for all others."""
    account = sign_in.signed_in()
    return account.username if account is not None and "it" in account.roles else None
