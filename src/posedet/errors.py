"""Errors that a user can cause. Each message is one line that names the file, the field and the remedy."""


class PoseDetError(Exception):
    """Base class of every error that a user can cause. The command line prints it without a traceback."""


class ConfigError(PoseDetError):
    """A preset or setting is unknown, missing or of the wrong type."""


class DataError(PoseDetError):
    """An annotation file, a skeleton or a results file is invalid."""


class ModelError(PoseDetError):
    """A model file is missing, damaged, or does not fit its use."""


class PhotoError(PoseDetError):
    """A photo cannot be read, or an array has the wrong type or shape."""


class PhotoFormatError(PhotoError):
    """The content is not a photo, or its format is not supported."""


class PhotoSizeError(PhotoError):
    """A photo has too many bytes or pixels."""
