"""The error of a request that cannot be carried out, told in words for whoever made it."""


class ExperimentError(Exception):
    """An experiment was asked for that cannot run: the message says what was got and what to do."""
