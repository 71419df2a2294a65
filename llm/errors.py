"""What can go wrong by a user's hand or by numbers, as exceptions that say what to do."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint that is damaged or belongs to something else."""


class Diverged(RuntimeError):
    """Training must not go on: an alarm, or something NaN or infinite."""


class NonFinite(Diverged):
    """NaN or inf in a tensor, found before it could be used."""


class RunFilesError(ValueError):
    """Files of a run that something else removed or changed while it went on."""


class ConfigError(ValueError):
    """A setting that is out of bounds, unknown, or without effect."""


class Interruption(BaseException):
    """What is done has to end now, by no fault of its own: code that counts failures lets it
    through."""


def kind_of(value: object) -> str:
    """What a value read from a file is, with its article, for a message: "an int", "null"."""
    if value is None:
        return "null"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeio' else 'a'} {name}"
