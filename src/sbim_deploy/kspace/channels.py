"""Which readouts are of the receiver array: those of the most channels; a few others are left out."""

from __future__ import annotations

from collections import Counter

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.slice_buffer import Key, describe_key

OTHER_CHANNELS = "other channels"
FEW_OTHERS = 8  # readouts for each that has other channels
MAX_SLICES = 4096  # that have such


class ReadoutChannels:
    """The channels of the readouts so far.

    Attributes:
        n_coils: those of the array, or None before the first readout.
        n_kept: the readouts that have them.
    """

    def __init__(self) -> None:
        self.n_coils: int | None = None
        self.n_kept = 0
        self._others: Counter[Key] = Counter()

    def clear(self) -> None:
        """Forget the readouts, not the array."""
        self.n_kept = 0
        self._others.clear()

    def keeps(self, n_channels: int, key: Key) -> bool:
        """Count a readout of a slice, and tell whether it is one of the array's."""
        self.n_coils = self.n_coils or n_channels
        if n_channels != self.n_coils:
            self._others[key] += 1
            if len(self._others) > MAX_SLICES:
                check_few_others(self.n_others, self.n_kept, self.n_coils)
            return False
        self.n_kept += 1
        return True

    def widen(self, n_channels: int, left_out: Counter[Key]) -> None:
        """Take more channels for the array's, and leave out the readouts of slices that had fewer."""
        self.n_coils = n_channels
        self.n_kept = 0
        self._others.update(left_out)

    @property
    def n_others(self) -> int:
        """The readouts that are left out."""
        return self._others.total()

    def remarks(self, key: Key, n_readouts: int) -> tuple[str, ...]:
        """Return what to say of what was left out of a slice, of which ``n_readouts`` were kept.

        Raises:
            InputError: what was left out is not a few.
        """
        others = self._others[key]
        check_few_others(others, n_readouts, self.n_coils, describe_key(key))
        return (f"{others} readouts with other channels than {self.n_coils} are left out",) if others else ()


def check_few_others(others: int, n_readouts: int, n_coils: int | None, where: str = "the scan") -> None:
    """Check that readouts with other channels than the array's are few, such as a body coil's.

    Raises:
        InputError: they are not.
    """
    if others * FEW_OTHERS > n_readouts:
        raise InputError(
            f"{where}: {others} readouts have other channels, expected {n_coils} channels, as the other "
            f"{n_readouts} have; split the scan by its channels"
        )
