"""The errors that a user can act on, each with the exit code of the command that meets it.

A message is one line: what was wrong, where, what was expected, and the way out.
"""


class SbimDeployError(Exception):
    """Base of every error that ends a command with one line in place of a traceback."""

    exit_code = 1


class InputError(SbimDeployError):
    """A file, an array or an option is not what it must be."""

    exit_code = 2


class SamplingError(SbimDeployError):
    """A sampler met a non-finite value."""

    exit_code = 1


class ParityError(SbimDeployError):
    """A graph or an engine does not compute what its source computes."""

    exit_code = 3


class BackendMissingError(SbimDeployError):
    """The package or the device that a backend needs is not there."""

    exit_code = 4


class DeviceLostError(SbimDeployError):
    """The GPU failed, and this process cannot use it any more."""

    exit_code = 1


class EngineIncompatibleError(SbimDeployError):
    """An engine was built for another model, device or version."""

    exit_code = 5


class ChecksumError(SbimDeployError):
    """A file of a model folder is not the one its manifest names."""

    exit_code = 6
