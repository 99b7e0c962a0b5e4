"""The error of a request that cannot be carried out."""


class ExperimentError(Exception):
    """An experiment cannot run as requested: the message names what was got and what to do."""
