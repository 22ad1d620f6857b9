"""Which task goes with which data, and with which model."""

from pathlib import Path

from ..errors import ArgumentError
from ..network import Network, load
from . import classes, forecasts, texts
from .choices import BUILT_IN, Chosen
from .classes import Classes
from .forecasts import Forecasts
from .texts import Texts

TASKS = {"forecast": Forecasts, "classify": Classes, "text": Texts}
AGAIN = {"forecast": forecasts.again, "classify": classes.again, "text": texts.again}
Job = Forecasts | Classes | Texts


def job_of(chosen: Chosen) -> Job:
    """Data, read and cut for the task that suits them."""
    chosen = chosen.resolved()
    return TASKS[chosen.task or ""](chosen)


def known(model: Path, network: Network, data: str | None = None) -> Job:
    """What a model was trained on, or all of another file in the same way.

    Raises ArgumentError for a model that does not say what it was trained on, where `data` is not
    one of the built-in sets.
    """
    words = network.metadata
    if words and words.get("task") in AGAIN:
        try:
            return AGAIN[words["task"]](words, data)
        except FileNotFoundError as error:
            raise ArgumentError(f"{error.filename} is not there: say where the data are") from None
    if data in BUILT_IN:
        return job_of(Chosen(str(data)))
    raise ArgumentError(
        f"{model} does not say what it was trained on: it was not written by `rnn-gpu train`"
    )


def opened(model: Path, device: str, data: str | None = None) -> tuple[Network, Job]:
    """A model and its data."""
    network = load(model, device=device)
    return network, known(model, network, data)
