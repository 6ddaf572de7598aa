"""Errors a person can act on: one sentence that says what is wrong, where, and what to do."""


class UnetBundleError(Exception):
    """Base of every error of this package whose message is meant for the person at the terminal.

    At the edge of a command-line run the message is the last line and the exit status is not zero;
    inside a server it stays an exception like any other.
    """


class InputError(UnetBundleError, ValueError):
    """A scan, a label or a data set that could give a wrong segmentation, or cannot be read."""


class ConfigError(UnetBundleError, ValueError):
    """A key, a value or a combination of them that the configuration does not know."""


class CheckpointError(UnetBundleError, RuntimeError):
    """Weights that are missing or do not fit the network."""


class FolderInUseError(UnetBundleError, RuntimeError):
    """Another run writes to the folder."""
