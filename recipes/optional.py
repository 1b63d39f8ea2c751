"""Optional: packages that may be missing, and a torchvision that does not match torch."""

from importlib.metadata import PackageNotFoundError, version

from surgery.errors import SurgeryError


def check_torchvision() -> None:
    """Raise a one-sentence error if torchvision does not work.

    Call it before the first import of torchvision or timm (which imports torchvision). Costs that import, once.
    A torchvision built for another torch fails deep in its own code, with a missing operator `torchvision::nms`.

    Raises:
        SurgeryError: torchvision is not installed, or cannot be imported with the torch that is.
    """
    try:
        import torchvision  # noqa: F401
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "torchvision"
        says = (str(error).splitlines() or [repr(error)])[0]
        # One line names the cause; a traceback through torchvision's files would bury it.
        raise SurgeryError(
            "torchvision is not installed." if missing else f"torchvision does not work with this torch: {says}.",
            asked=f"torch {_installed('torch')}, torchvision {_installed('torchvision')}",
            try_="install both with one command, from the same index: pip install --upgrade torch torchvision",
        ) from None


def check_optuna() -> None:
    """Raise a one-sentence error if Optuna is not installed, or is older than 5.

    Raises:
        SurgeryError: it is not, or is.
    """
    found = _installed("optuna")
    if not found[0].isdigit():
        raise missing("a search needs", "Optuna", "search")
    if int(found.partition(".")[0]) < 5:
        raise SurgeryError("a search needs Optuna 5 or later.", asked=f"optuna {found}",
                           try_='pip install "activation-surgery[search]"')  # fmt: skip


def missing(what: str, package: str, extra: str) -> SurgeryError:
    """The error to raise if `package`, which the extra installs, cannot be imported."""
    return SurgeryError(f"{what} {package}, which is not installed.", try_=f'pip install "activation-surgery[{extra}]"')


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"
