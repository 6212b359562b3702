"""What can go wrong, by type. Every message names the value that was wrong and says what to do next."""


class StableDiffError(Exception):
    """Anything that the user can put right; front ends show its text and nothing else."""


class RequestError(StableDiffError, ValueError):
    """A request asks for something that cannot be drawn (a bound, an unknown name, a bad picture)."""


class CheckpointError(StableDiffError):
    """A checkpoint cannot be found, read, or matched with a network that we know."""


class DeviceError(StableDiffError):
    """The device or the precision asked for is not available here."""


class NumericalError(StableDiffError):
    """A stage produced NaN or infinity in every precision that was tried."""


class OutOfMemoryError(StableDiffError):
    """The work does not fit into memory, even in its smallest form."""


class ConfigError(StableDiffError):
    """A training run is told something that it cannot do: an unknown entry, a wrong type, a bound."""


class DataError(StableDiffError):
    """Training data cannot be fetched, read or written, or does not hold what a recipe asks for."""


class EvaluationError(StableDiffError):
    """A metric cannot be computed from what it is given: too few pictures, unequal sets, NaN."""


def one_line(message: str) -> str:
    """What may be printed of a message that quotes strangers: one line, no control characters, no novel."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(message.split()))
    return line if len(line) <= 600 else f"{line[:400]} … {line[-180:]}"
