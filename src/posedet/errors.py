"""What can go wrong in a user's hands: one line that names the file, the field and the remedy."""


class PoseDetError(Exception):
    """Base of every error that a user can cause; the command line prints it without a traceback."""


class ConfigError(PoseDetError):
    """A preset or setting is unknown, missing or of the wrong type."""


class DataError(PoseDetError):
    """An annotation file, a skeleton or a result file is not what it should be."""


class ModelError(PoseDetError):
    """A model file is missing, damaged, or does not fit."""


class PhotoError(PoseDetError):
    """A photo cannot be read."""
