"""The errors the toolkit raises for mistakes its user can mend.

Every message is one sentence that names the file or case, what was expected
and what was found. The command line prints it and exits with 2.
"""


class BoneAgeError(Exception):
    """Base of all errors raised on purpose by the toolkit."""


class DataError(BoneAgeError):
    """An image, label table, cohort or cache that cannot be used as it is."""


class ConfigError(BoneAgeError):
    """A recipe, option or setting that is unknown, contradictory or out of range."""


class CheckpointError(BoneAgeError):
    """A run folder or weight file that is missing, damaged or of another version."""


class AttributionError(BoneAgeError):
    """An attribution that is not valid for the network or case asked for."""


class ReportError(BoneAgeError):
    """An analysis folder from which no report or page can be made."""
