"""What an optimizer with AGC says of its last step."""

from keras import ops

from keras_nfnet.optimizers.clipping import number_of_units


class Reports:
    """Base of `ClippedOptimizer`, which keeps what is reported."""

    @property
    def averages(self):
        """`(variable, its moving average)` of each variable that has one.

        Before the first step the average of a variable is its value.
        """
        if not self.built or not self._averages:
            return []
        is_made = int(ops.convert_to_numpy(self._steps_made)) > 0
        pairs = zip(self._trainable_variables, self._averages, strict=True)
        return [
            (variable, average if is_made else variable)
            for variable, average in pairs
            if average is not None
        ]

    @property
    def skipped_steps(self):
        """Optimizer steps that changed nothing, as an integer tensor."""
        if not self.built:
            return ops.zeros((), "int32")
        return ops.subtract(self.iterations, self._steps_made)

    @property
    def learning_rate_used(self):
        """The rate of the last step; 0 before the first."""
        return ops.add(self._rate_used, 0.0)

    def clipped_counts(self, select=None):
        """Units that the last step clipped, and how many there are.

        Args:
            select: A function from a variable's path to whether it counts;
                `None` for all that are clipped at all.

        Returns:
            A list of float32 scalars, one for each variable, NaN if the
            gradient was not finite; and an integer.
        """
        chosen = [
            index
            for index, is_clipped in enumerate(self._is_clipped)
            if is_clipped and (select is None or select(self._paths[index]))
        ]
        counts = [self._clipped_units[i].value for i in chosen]
        shapes = [self._trainable_variables[i].shape for i in chosen]
        axes = [self._unit_axes[i] for i in chosen]
        return counts, sum(map(number_of_units, shapes, axes))

    def clipped_fraction(self, select=None):
        """Fraction of units that the last step clipped.

        Args:
            select: As for `clipped_counts`.

        Returns:
            A float32 scalar; NaN if the gradient was not finite, in which
            case the step changed nothing.
        """
        counts, units = self.clipped_counts(select)
        total = ops.sum(ops.stack(counts)) if counts else ops.zeros(())
        return total / max(units, 1)
