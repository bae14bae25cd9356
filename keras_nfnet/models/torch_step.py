"""The training step on the PyTorch backend."""

import torch
from keras import tree

from keras_nfnet.models.stateful_step import StatefulStep


class TrainingStep(StatefulStep):
    """`train_step` of `NFNetModel`: Keras's own, or SAM's, and the logs."""

    def sam_step(self, data):
        # Keras's own step leaves gradients with the weights; this does not.
        self.zero_grad()
        return super().sam_step(data)

    def _differentiate(self, scaled_loss, values):
        leaves = [value.detach().requires_grad_() for value in values]
        scaled, (loss, y_pred, updates) = scaled_loss(leaves)
        gradients = torch.autograd.grad(scaled, leaves, allow_unused=True)
        # The predictions as they are: a copy would lose their masks.
        kept = tree.map_structure(_detached, (loss, updates))
        return (kept[0], y_pred, kept[1]), list(gradients)

    def _apply(self, gradients, variables):
        with torch.no_grad():
            self.optimizer.apply(gradients, variables)

    def refuse_what_the_engine_cannot(self):
        """PyTorch computes on one device."""


def _detached(value):
    return value.detach() if torch.is_tensor(value) else value
