"""A real training trajectory on disk: the study ``nonlinear``'s ReLU network, wider, learns the digits by its rules.

Its network (64 → width → width → width → 10, drawn as there), images, loss and full-batch gradient descent; weights are
saved every so many steps as safetensors files, ``step0.safetensors`` …, named as PyTorch names them.
"""

from __future__ import annotations

from pathlib import Path

SEED, HELD_OUT = 0, 360


def train(folder: Path, *, width: int, step_size: float, steps: int, every: int) -> list[Path]:
    """Train, save, and give the files in order; a folder that has them already is left as it is.

    Parameters
    ----------
    folder
        Made if it is missing.
    width
        Of the three hidden layers.
    step_size, steps, every
        Of gradient descent; how many; how many between two files.

    """
    places = [folder / f"step{step}.safetensors" for step in range(0, steps + 1, every)]
    if all(place.exists() for place in places):
        return places
    import torch
    from safetensors.torch import save_file

    from flatcore.studies import digits_data
    from flatcore.studies.nonlinear import split
    from flatcore.studies.nonlinear_networks import build
    from flatcore.studies.nonlinear_training import squared_error

    folder.mkdir(parents=True, exist_ok=True)
    inputs, targets, _ = split(*digits_data.load(), SEED, HELD_OUT).tensors()
    network = build("relu", width, (SEED, 12))
    parameters, partial = list(network.parameters()), folder / "step.partial"
    for step in range(steps + 1):
        if step % every == 0:
            save_file(dict(network.state_dict()), partial)  # a run that ends here leaves no half of a file
            partial.replace(folder / f"step{step}.safetensors")
        slopes = torch.autograd.grad(squared_error(network(inputs), targets), parameters)
        with torch.no_grad():
            for p, slope in zip(parameters, slopes, strict=True):
                p.sub_(slope, alpha=step_size)
    return places
