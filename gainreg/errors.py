"""The errors gainreg raises: one root, one class for each kind of fault."""


class GainregError(Exception):
    """Root of every error that gainreg raises on purpose."""


class UnknownActivationError(GainregError, KeyError):
    """No activation of that name or alias is registered."""

    # KeyError would show the repr of the message: quotes around a sentence.
    __str__ = Exception.__str__


class ParameterError(GainregError, ValueError):
    """A parameter, a std or an option is unknown, missing, of the wrong type or out of range."""


class MomentError(GainregError):
    """A Gaussian moment is zero, infinite, or leaves the range of a double, so no gain exists."""


class PluginError(GainregError):
    """A plugin cannot be loaded, clashes with another, or returns what it must not."""


class TableError(GainregError):
    """A table cannot be read, is damaged, breaks the schema, or lacks the entry asked for."""


class PlanError(GainregError, ValueError):
    """A plan cannot be read, is damaged, or is not of the model that it is applied to."""


class MissingPackageError(GainregError, ImportError):
    """A package does not import that a part of gainreg needs."""


def missing(part: str, package: str, error: ImportError, hint: str = "") -> MissingPackageError:
    """The error of a part of gainreg whose package, as it is called to install, does not import."""
    return MissingPackageError(
        f"{part} needs {package}, which does not import ({error}); "
        f"install it with: pip install --upgrade {package}{hint}",
        name=error.name,
    )
