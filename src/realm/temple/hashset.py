"""A set of 64-bit hashes in 13-27 bytes each: duplicates are found in files of any size with little memory."""

from __future__ import annotations

from array import array


class HashSet:
    """Open addressing over one `array('Q')`; 0 marks an empty place (the hash 0 is kept as 1).

    A Python set of integers would need about 60 bytes each. Two different rows share a 64-bit hash with probability
    3e-6 in a file of ten million rows.
    """

    def __init__(self, places: int = 1 << 10) -> None:
        self._table = array("Q", bytes(8 * places))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, value: int) -> bool:
        """Add a hash in 0…2**64-1; True when it was not there."""
        if 5 * self._count >= 3 * len(self._table):
            self._grow()
        if not self._put(self._table, value or 1):
            return False
        self._count += 1
        return True

    @staticmethod
    def _put(table: array, value: int) -> bool:
        mask = len(table) - 1
        place = value & mask
        while True:
            found = table[place]
            if found == value:
                return False
            if not found:
                table[place] = value
                return True
            place = (place + 1) & mask

    def _grow(self) -> None:
        old, self._table = self._table, array("Q", bytes(16 * len(self._table)))
        for value in old:
            if value:
                self._put(self._table, value)
