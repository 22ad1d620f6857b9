"""The bar of training on the terminal."""

from .callbacks import Callback


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
