"""Networks: layers in a row, and what is done with them.

network        the call, the way back, files
stream         inference on sequences as they come
fit            the door to training: its arguments
training       its settings, its loop, one update
compiling      one batch of each kind, so that kernels are compiled before training begins
callbacks      what is told of it: validation, checkpoints, the best model, the user's own
bar            lines of text that fit
progress       the bar, and a line an epoch
batches        samples at the door, and batches of them
gradients      loss and gradients of a batch
truncation     truncated BPTT
evaluation     loss, accuracy and outputs of samples
memory         BPTT within a budget: segments that are computed twice
checkpoint     all that training stands on, in a file
finite         where the first NaN or infinity stands
summary        a network in a table
gradient_flow  how a gradient fares on its way back
"""

from .network import Network, load
from .stream import Stream

__all__ = ["Network", "Stream", "load"]
