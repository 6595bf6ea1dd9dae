"""Errors that input causes: each names what came, what was expected, and the remedy."""


class KpfeatError(Exception):
    """Base of every error that a user can cause; shown as one sentence, never as a traceback."""


class ImageError(KpfeatError):
    """An image that cannot be read or has an unusable shape, type or encoding."""


class BadImageError(ImageError):
    """One image of many that cannot be used; statistics count it by its `kind`."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind


class ShapeError(KpfeatError):
    """Arrays that do not fit each other."""


class ConfigError(KpfeatError):
    """An unknown option, or a value outside its range."""


class WeightsError(KpfeatError):
    """A weight file that is missing, broken or made for another model."""


class DataError(KpfeatError):
    """A folder, video or data set that lacks something that is needed."""
