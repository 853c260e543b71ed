"""The one exception that means "the user can fix this"; the command line prints it as one line and exits with 2."""


class TelMEError(ValueError):
    """A value that cannot be used: the message names it, where it stands (file and line) and what would be valid."""
