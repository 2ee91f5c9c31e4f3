"""The monitor as a callback of Lightning and of the Hugging Face Trainer; both are imported when asked for."""

from __future__ import annotations

import importlib
from typing import Any, Protocol


class Monitor(Protocol):
    """What a callback calls."""

    every: int

    def step(self, step: int | None = None, optimizer: Any = None) -> Any:
        """The training has made so many steps."""

    def measure(self, step: int | None = None, optimizer: Any = None) -> Any:
        """Measure after so many steps."""


def lightning_callback(monitor: Monitor) -> Any:
    """A Lightning ``Callback`` that tells the monitor of every optimizer step.

    Raises
    ------
    ModuleNotFoundError
        Neither ``lightning`` nor ``pytorch_lightning`` is installed.

    """
    base = _imported(("lightning.pytorch", "pytorch_lightning"), "Callback", "lightning")

    class FlatnessCallback(base):  # type: ignore[misc, valid-type]
        """Steps with accumulated gradients count once, those of several optimizers each.

        Of several optimizers none gives the limit, unless the monitor was told one.
        """

        seen = 0

        def on_train_start(self, trainer: Any, *_: Any) -> None:
            self.seen = trainer.global_step

        def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
            before, self.seen = self.seen, trainer.global_step
            if self.seen // monitor.every > before // monitor.every:  # several optimizers may step past it
                monitor.measure(self.seen, trainer.optimizers[0] if len(trainer.optimizers) == 1 else None)

    return FlatnessCallback()


def huggingface_callback(monitor: Monitor) -> Any:
    """A ``transformers.TrainerCallback`` that tells the monitor of every optimizer step.

    Raises
    ------
    ModuleNotFoundError
        ``transformers`` is not installed.

    """
    base = _imported(("transformers",), "TrainerCallback", "transformers")

    class FlatnessCallback(base):  # type: ignore[misc, valid-type]
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            monitor.step(state.global_step, given.get("optimizer"))

    return FlatnessCallback()


def _imported(modules: tuple[str, ...], name: str, package: str) -> Any:
    for module in modules:
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name not in (module, module.partition(".")[0]):  # installed, and something it needs is missing
                raise
    raise ModuleNotFoundError(f"none of {', '.join(modules)} is installed; expected one: pip install {package}")
