"""The extras: what is said where an optional package is missing."""

from surgery.errors import SurgeryError


def missing(what: str, package: str, extra: str) -> SurgeryError:
    """The error to raise where `package`, which the extra brings, cannot be imported."""
    return SurgeryError(f"{what} {package}, which is not installed.", try_=f'pip install "activation-surgery[{extra}]"')
