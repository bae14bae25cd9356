"""The order in which the examples of stored files are read.

A pass over the data is a permutation of its examples: the files in an order
of their own, and the examples of each file in an order of their own, both
drawn from the seed and the number of the pass. That row of examples is cut
into as many lanes as a batch has blocks, and a block is always filled from
its own lane. So one who needs a part of each batch reads the files of a few
lanes only, and one who begins at a later step reads each lane's current file
and none before it.

How random this is: any two passes are as different as two random
permutations as far as files go, so an example moves by a third of the data on
the average. Examples of one file stay together: all come while their lane
reads that file, which is `lanes` × (examples of a file) of the stream. Data
sets of TFDS are shuffled when they are written, unless they say otherwise, so
a file is a random sample. A data set of one file is permuted as a whole.
"""

from dataclasses import dataclass

import numpy as np

# Each lane holds two files in memory; ImageNet's have 140 MB each.
_MEMORY = 4 << 30
_MOST_LANES = 32


def permutation(count, *seeds):
    """A random permutation of `count` that NumPy's versions do not change."""
    # NumPy guarantees the streams of bit generators, not of distributions.
    draws = np.random.PCG64(seeds).random_raw(count)
    return np.argsort(draws, kind="stable")


@dataclass(frozen=True)
class Order:
    """Which stored example stands where in the endless stream.

    Place `p` of the stream is image `p % batch` of step `p // batch`, and
    belongs to pass `p // examples`.

    Args:
        lengths: Examples of each file.
        seed: Integer, 0 or more.
        batch: Images that one step reads.
        file_bytes: Size of a file.
    """

    lengths: tuple
    seed: int
    batch: int
    file_bytes: int = 1

    @property
    def examples(self):
        return sum(self.lengths)

    @property
    def lanes(self):
        """Number of lanes: a divisor of `batch`.

        Lanes end within files, which two lanes then read: hence two files
        for each lane at least.
        """
        most = min(len(self.lengths) // 2, _MEMORY // (2 * self.file_bytes))
        most = max(1, min(most, self.batch, _MOST_LANES))
        return max(n for n in range(1, most + 1) if self.batch % n == 0)

    @property
    def block(self):
        """Images of one batch that come from the same lane."""
        return self.batch // self.lanes

    def blocks(self, start, count):
        """Cuts a part of the batch into equal runs within one lane each.

        Args:
            start: First image of the part, a multiple of `count`.
            count: Images of the part, a divisor of `batch`.

        Returns:
            The first image of each run, and the runs' length.
        """
        length = int(np.gcd(self.block, count))
        return np.arange(start, start + count, length), length

    def visits(self, number, lane, first_step=0):
        """The files that a lane reads in one pass.

        Args:
            number: Number of the pass.
            lane: Number of the lane.
            first_step: Files that come before this step are left out.

        Returns:
            Four vectors with one entry for each file: its number, the first
            and one past the last of its examples to take, counted in the
            file's order of this pass, and the first one's place in the lane.
        """
        begins = self._before(number * self.examples)
        counts = self._before((number + 1) * self.examples) - begins
        start = counts[:lane].sum()
        order = permutation(len(self.lengths), self.seed, number)
        lengths = np.array(self.lengths)[order]
        offsets = np.cumsum(lengths) - lengths
        first = np.maximum(start - offsets, 0)
        last = np.minimum(start + counts[lane] - offsets, lengths)
        places = begins[lane] + offsets + first - start
        taken = first < last
        taken &= places + last - first > first_step * self.block
        return order[taken], first[taken], last[taken], places[taken]

    def within(self, number, file):
        """The order of a file's examples in a pass, as their numbers."""
        return permutation(self.lengths[file], self.seed, number, file + 1)

    def _before(self, place):
        """How many places before this one belong to each lane."""
        steps, rest = divmod(place, self.batch)
        starts = np.arange(self.lanes) * self.block
        return steps * self.block + np.clip(rest - starts, 0, self.block)
