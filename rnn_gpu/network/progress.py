"""What training says on the terminal: the kernels that are compiled before it begins, and a bar."""

import sys
from collections.abc import Sequence

from .callbacks import Callback, Validation
from .compiling import Compiled
from .training import Training


def compile_all(training: Training, callbacks: Sequence[Callback], says: bool) -> Compiled:
    """Compile what training and its validation need; `says` tells in words, on standard error."""
    network = training.network
    says = says and network.backend.compiles()
    if says:
        print(f"kernels for {network.device}, {network.dtype} … ", end="", file=sys.stderr)
        sys.stderr.flush()
    held_out = [each.samples for each in callbacks if isinstance(each, Validation)]
    done = training.compile(held_out, taped=any(each.tapes for each in callbacks))
    if says:
        print(in_words(done), file=sys.stderr)
    return done


def in_words(done: Compiled) -> str:
    """ "compiled 7, found 3 on disk: 12.3 s"."""
    parts = [f"compiled {done.compiled}"] if done.compiled else []
    parts += [f"found {done.found} on disk"] if done.found else []
    return f"{', '.join(parts) or 'all are there'}: {done.seconds:.1f} s"


class Progress(Callback):
    """A bar on the terminal: batches of all epochs, and the numbers of the last one."""

    def on_begin(self, training):
        from tqdm.auto import tqdm

        position, batches = training.position, training.batches
        self.bar = tqdm(
            total=training.batches_in_all,
            initial=position.epoch * batches + position.batch,
            unit="batch",
            dynamic_ncols=True,
        )

    def on_update(self, training, update):
        if update.ends_batch:
            self.bar.update()

    def on_epoch(self, training):
        epochs = training.settings.epochs
        whole = f"/{epochs}" if epochs else ""
        self.bar.set_description(f"epoch {training.position.epoch}{whole}")
        self.bar.set_postfix({name: f"{x:.4f}" for name, x in training.last_epoch.items()})

    def on_end(self, training, error):
        self.bar.close()
