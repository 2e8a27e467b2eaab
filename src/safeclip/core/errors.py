"""The errors that users meet. Each message is one line: the item, what is wrong with it, what to do."""


class SafeclipError(Exception):
    """Base of every error caused by input, settings or environment; shown as one line, never a traceback."""


class SettingsError(SafeclipError):
    """params.yaml holds an unknown key, a wrong type or an impossible value."""


class DataError(SafeclipError):
    """A data file is missing, unreadable or breaks the data contract."""


class ImageError(DataError):
    """One of several images does not decode: its `index` among them, and the `fault` with its remedy."""

    def __init__(self, index: int, fault: str) -> None:
        super().__init__(index, fault)
        self.index, self.fault = index, fault

    def __str__(self) -> str:
        return f"image {self.index}: {self.fault}"


class GuardError(SafeclipError):
    """The content guard is not intact, or a request tripped it."""


class ModelError(SafeclipError):
    """A model folder, name or checkpoint cannot be used."""


class TrainingError(SafeclipError):
    """Training cannot go on (for example a loss that is not a number)."""


class GateError(SafeclipError):
    """A step needs a passed gate and there is none."""


class PipelineError(SafeclipError):
    """dvc.yaml, the DVC repository or a stage's process is not in a usable state."""


class RegistryError(SafeclipError):
    """A release, its signature or the registry's store is not what it should be."""


class GitError(SafeclipError):
    """git refused or failed at what it was asked."""
