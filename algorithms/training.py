"""One resumable training loop for every method.

Batches, and whatever else is random, are drawn from `(seed, iteration)` and not from a running
generator, so a run that was killed and continued from a checkpoint sees the same batches and ends
in the same weights.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import TrainingSchedule

Weights = dict[str, Tensor]
Batch = TypeVar("Batch")

_MOMENTS = ("momentum_buffer", "exp_avg", "exp_avg_sq")  # of SGD and Adam, by torch's names


@dataclass(frozen=True)
class Step:
    """Where a training stands.

    Attributes:
        number: of the step, from 0.
        total: how many there will be.
        rng: for what a method draws; from the seed and the number.
    """

    number: int
    total: int
    rng: np.random.Generator


class Learner(nn.Module, Generic[Batch]):
    """A method: the network that it trains, whatever it needs beside it, and what it minimises.

    All of its state dict is in a checkpoint; `network` alone is kept at the end.
    """

    network: nn.Module

    def loss(self, batch: Batch, step: Step) -> Tensor:
        """Return what a step minimises."""
        raise NotImplementedError

    def after_step(self, step: Step) -> None:
        """Do what follows a step of the optimiser, such as updating a teacher."""


@dataclass(eq=False)
class TrainingState:
    """Everything needed to go on: saved as a checkpoint, returned at the end.

    Attributes:
        iteration: steps done.
        weights: state dict of the learner.
        moments: of the optimiser, as `name of the moment/name of the parameter`.
        best_weights: state dict of the network that did best in validation; empty without.
        best_score: how well it did.
    """

    iteration: int = 0
    weights: Weights = field(default_factory=dict)
    moments: Weights = field(default_factory=dict)
    best_weights: Weights = field(default_factory=dict)
    best_score: float = -1.0


Draw = Callable[[np.random.Generator], Any]  # draws a batch
Validate = Callable[[nn.Module], float]
Save = Callable[[TrainingState], None]
Progress = Callable[[int, int, float], None]


def device() -> torch.device:
    """Return the accelerator when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def learning_rate(schedule: TrainingSchedule, iteration: int) -> float:
    """Return the rate at an iteration, by the schedule's `decay`.

    "polynomial": lr * (1 - iteration / iterations) ** poly_power;
    "step" and "exponential": lr * decay_factor ** n, n = (iteration - decay_from) / decay_every, at
    least 0, rounded down for "step".

    >>> learning_rate(TrainingSchedule(iterations=10, learning_rate=0.1, poly_power=1.0), 5)
    0.05
    >>> step = TrainingSchedule(iterations=9, learning_rate=1.0, decay="step", decay_every=2)
    >>> [learning_rate(step, i) for i in (0, 1, 2, 4)]
    [1.0, 1.0, 0.1, 0.01]
    """
    if schedule.decay == "polynomial":
        left = 1.0 - iteration / schedule.iterations
        return float(schedule.learning_rate * left**schedule.poly_power)
    count = max(iteration - schedule.decay_from, 0) / schedule.decay_every
    if schedule.decay == "step":
        count = int(count)
    return float(schedule.learning_rate * schedule.decay_factor**count)


def train(
    learner: Learner[Batch],
    draw: Callable[[np.random.Generator], Batch],
    schedule: TrainingSchedule,
    *,
    seed: int,
    validate: Validate | None = None,
    state: TrainingState | None = None,
    save: Save | None = None,
    progress: Progress | None = None,
    start_is_candidate: bool = False,
) -> TrainingState:
    """Train `learner` in place.

    Args:
        learner: trained in place.
        draw: draws a batch. It runs in a thread, one batch ahead.
        schedule: how long and how fast.
        seed: batches are drawn from it and the iteration.
        validate: score of `learner.network` to maximise, measured every `schedule.validate_every`
            iterations; the network ends with the best weights. Without it, with the last.
        state: a checkpoint to continue from.
        save: called with a checkpoint every `schedule.validate_every` iterations.
        progress: called with (iteration, iterations, mean loss) then.
        start_is_candidate: the starting weights may be the best ones too, so that fine-tuning
            never ends worse on the validation patients than it began.

    Raises:
        DataError: the loss is no number any more.
    """
    place = device()
    learner.to(place, memory_format=memory_layout(learner))  # type: ignore[call-overload]
    trained = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    optimiser = _optimiser(list(trained.values()), schedule)
    state = state or TrainingState()
    if state.iteration:
        learner.load_state_dict(state.weights)
        _set_moments(trained, optimiser, state.moments, state.iteration)
    elif validate is not None and start_is_candidate:
        state.best_score = validate(learner.network)
        state.best_weights = _copy(learner.network.state_dict())
    losses: list[float] = []
    with ThreadPoolExecutor(max_workers=1) as ahead:

        def next_batch(iteration: int) -> Any:
            return ahead.submit(draw, np.random.default_rng([seed, iteration]))

        coming = next_batch(state.iteration)
        while state.iteration < schedule.iterations:
            batch = coming.result()
            coming = next_batch(state.iteration + 1)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(schedule, state.iteration)
            losses.append(
                take_step(learner, optimiser, batch, schedule, seed=seed, iteration=state.iteration)
            )
            state.iteration += 1
            if state.iteration % schedule.validate_every and state.iteration < schedule.iterations:
                continue
            if validate is not None:
                score = validate(learner.network)
                if score > state.best_score:
                    state.best_score = score
                    state.best_weights = _copy(learner.network.state_dict())
            if save is not None:
                state.weights = _copy(learner.state_dict())
                state.moments = _moments(trained, optimiser)
                save(state)
            if progress is not None:
                progress(state.iteration, schedule.iterations, float(np.mean(losses)))
            losses.clear()
    if state.best_weights:
        learner.network.load_state_dict(state.best_weights)
    learner.eval()
    return state


def apply(network: Callable[[Tensor], Any], images: Tensor) -> Any:
    """Run a network in half precision where that is faster; its outputs come in float32.

    Args:
        network: gives a tensor or a tuple of tensors.
        images: `[B, C, (Z,) Y, X]`.
    """
    layout = torch.channels_last_3d if images.ndim == 5 else torch.channels_last
    kind = images.device.type
    with torch.autocast(kind, dtype=torch.bfloat16, enabled=half_precision(images.device)):
        outputs = network(images.contiguous(memory_format=layout))
    if isinstance(outputs, tuple):
        return tuple(output.float() for output in outputs)
    return outputs.float()


def half_precision(place: torch.device) -> bool:
    """bfloat16 where the hardware computes with it; elsewhere it would only be slower."""
    if place.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())


def memory_layout(module: nn.Module) -> torch.memory_format:
    """Return the layout in which convolutions of this module are fast."""
    solid = any(isinstance(part, nn.Conv3d) for part in module.modules())
    return torch.channels_last_3d if solid else torch.channels_last


def on_device(batch: Any, place: torch.device) -> Any:
    """Move the tensors of a batch: a tensor, or a tuple of such."""
    if isinstance(batch, tuple):
        return tuple(on_device(part, place) for part in batch)
    return batch.to(place)


def take_step(
    learner: Learner[Any],
    optimiser: torch.optim.Optimizer,
    batch: Any,
    schedule: TrainingSchedule,
    *,
    seed: int,
    iteration: int,
) -> float:
    """Take one step of a training and return its loss; what is random comes from the numbers."""
    place = next(learner.parameters()).device
    learner.train()
    step = Step(iteration, schedule.iterations, np.random.default_rng([seed, iteration, 1]))
    with _torch_seeded(step.rng, place):  # dropout draws from it
        loss = learner.loss(on_device(batch, place), step)
        if not torch.isfinite(loss):
            raise DataError(
                f"the training diverged at iteration {iteration}: lower its learning_rate"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(learner.parameters(), schedule.most_gradient)
        optimiser.step()
        learner.after_step(step)
    return float(loss.detach())


@contextmanager
def _torch_seeded(rng: np.random.Generator, place: torch.device) -> Iterator[None]:
    """Let torch draw from `rng` for a while; its global state is kept."""
    devices = [place] if place.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(rng.integers(2**62)))
        yield


def _optimiser(parameters: list[nn.Parameter], schedule: TrainingSchedule) -> torch.optim.Optimizer:
    if schedule.optimiser == "adam":
        return torch.optim.Adam(
            parameters, lr=schedule.learning_rate, weight_decay=schedule.weight_decay
        )
    return torch.optim.SGD(
        parameters,
        lr=schedule.learning_rate,
        momentum=schedule.momentum,
        weight_decay=schedule.weight_decay,
    )


def _copy(weights: Weights) -> Weights:
    return {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}


def _moments(trained: dict[str, nn.Parameter], optimiser: torch.optim.Optimizer) -> Weights:
    return {
        f"{moment}/{name}": optimiser.state[parameter][moment].detach().cpu().clone()
        for name, parameter in trained.items()
        for moment in _MOMENTS
        if optimiser.state.get(parameter, {}).get(moment) is not None
    }


def _set_moments(
    trained: dict[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    moments: Weights,
    steps: int,
) -> None:
    for key, tensor in moments.items():
        moment, name = key.split("/", 1)
        parameter = trained[name]
        optimiser.state[parameter][moment] = tensor.to(parameter.device)
        if moment == "exp_avg":
            optimiser.state[parameter]["step"] = torch.tensor(float(steps))
