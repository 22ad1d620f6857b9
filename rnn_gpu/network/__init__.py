"""Networks: layers in a row, and what is done with them.

network        the call, the way back, files
stream         inference on sequences as they come
training       fit, its settings, its loop
memory         BPTT within a budget: segments that are computed twice
checkpoint     all that training stands on, in a file
finite         where the first NaN or infinity stands
gradient_flow  how a gradient fares on its way back
"""

from .network import Network, load
from .stream import Stream

__all__ = ["Network", "Stream", "load"]
