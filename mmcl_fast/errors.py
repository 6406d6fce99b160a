"""Faults of the input. Each message is one line that names the file, line, key or shape and says what to do."""


class UserError(Exception):
    """A fault of the input: one line, says what to do. The command line prints it and exits with 2."""

    def __init__(self, message: object = ""):
        super().__init__(" ".join(line.strip() for line in str(message).splitlines()))


class MediaError(UserError):
    """A file that cannot be decoded as the modality asked for."""


class StreamError(UserError):
    """A folder or manifest that does not describe a stream of tasks."""


class ConfigError(UserError):
    """A configuration with an unknown key, a wrong type or a value out of range."""


class RunError(UserError):
    """A run folder that cannot be written, resumed or read."""


class EncoderError(UserError):
    """An encoder that cannot be loaded, or asked for a modality it does not have."""
