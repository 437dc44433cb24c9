"""Extras: a missing framework is one clear line, found by asking and not by catching.

    require("torch", extra="torch", wanted_by="torch_impl")

stands at the top of a backend's `__init__`, before the first import of the framework. On the package index this project is
`attention-parity`; a project called `attention` there is another one, which installs into the same folder `attention/`.
"""

from importlib.util import find_spec

__all__ = ["namesake", "require"]


def require(module: str, *, extra: str, wanted_by: str) -> None:
    """Refuse to go on without `module`, and say which extra brings it.

    Args:
        module: top-level name of the package, as it is imported.
        extra: the extra of this project that installs it.
        wanted_by: the backend or feature that needs it, as the user knows it.

    Raises:
        MissingExtra: `module` is not installed.

    >>> require("numpy", extra="all", wanted_by="spec")
    >>> require("no_such_package", extra="all", wanted_by="spec")
    Traceback (most recent call last):
    attention.spec.errors.MissingExtra: spec needs no_such_package, which is not installed: pip install 'attention-parity[all]'
    """
    if find_spec(module) is None:
        # Not at the top: the errors bring NumPy, which `attention --help` does without.
        from attention.spec.errors import MissingExtra  # noqa: PLC0415

        missing = f"{wanted_by} needs {module}, which is not installed: pip install 'attention-parity[{extra}]'"
        raise MissingExtra("; ".join(filter(None, (missing, namesake()))), name=module)


def namesake() -> str:
    """Return a line about the unrelated distribution `attention` if this environment has it, and "" if not.

    Each of the two overwrites `attention/__init__.py` of the other, and removes it when it is uninstalled. Until version 0.1.0
    this project was called `attention` itself; such an old installation is recognised by its command.
    """
    # Not at the top: a backend that finds its framework does without it.
    from importlib.metadata import PackageNotFoundError, distribution  # noqa: PLC0415

    try:
        found = distribution("attention")
    except PackageNotFoundError:
        return ""
    if any(entry.value.startswith("attention.cli:") for entry in found.entry_points):
        return ""
    return (
        f"the distribution 'attention' {found.version} here is another project, which overwrites files of this one: "
        "pip uninstall attention, then pip install --force-reinstall --no-deps attention-parity"
    )
