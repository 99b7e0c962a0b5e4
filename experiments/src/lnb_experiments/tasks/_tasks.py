"""The tasks: what builds a problem, its scales, and what its runs are judged by.

A new task is a settings dataclass, a function from settings and a seed to a `Problem`, and an entry
of `TASKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from lnb_experiments._errors import ExperimentError
from lnb_experiments.data._data import load_cifar10, load_digits, load_mnist, load_tinyshakespeare
from lnb_experiments.data._voc import load_voc
from lnb_experiments.optimizers._optimizers import OptimizerSettings
from lnb_experiments.runs._training import Problem
from lnb_experiments.tasks import _starting
from lnb_experiments.tasks._autoencoder import AutoencoderSettings, autoencoder
from lnb_experiments.tasks._burgers import BurgersSettings, burgers
from lnb_experiments.tasks._character_decoder import CharacterDecoderSettings, character_decoder
from lnb_experiments.tasks._character_lstm import CharacterLSTMSettings, character_lstm
from lnb_experiments.tasks._character_transformer import CharacterTransformerSettings, character_transformer
from lnb_experiments.tasks._classification import ClassifierSettings, classification
from lnb_experiments.tasks._diffusion import DiffusionSettings, diffusion
from lnb_experiments.tasks._fourier_operator import FourierOperatorSettings, fourier_operator
from lnb_experiments.tasks._graph_network import GraphNetworkSettings, graph_network
from lnb_experiments.tasks._matrix_factorization import (
    MatrixFactorizationSettings,
    matrix_factorization,
    row_scaled,
    singular_values_scaled,
)
from lnb_experiments.tasks._mixture_of_experts import MixtureOfExpertsSettings, mixture_of_experts
from lnb_experiments.tasks._poisson import PoissonSettings, poisson
from lnb_experiments.tasks._policy import PolicySettings, policy
from lnb_experiments.tasks._regression import RegressionSettings, regression
from lnb_experiments.tasks._resnet import ResNetSettings, resnet
from lnb_experiments.tasks._segmentation import SegmentationSettings, segmentation
from lnb_experiments.tasks._task import Scale, Target, Task
from lnb_experiments.tasks._vision_transformer import VisionTransformerSettings, vision_transformer


def _scales(cpu: Scale, paper: Scale) -> Mapping[str, Scale]:
    return MappingProxyType({"cpu": cpu, "paper": paper})


_FACTORIZATION = partial(
    Task,
    # The paper's sizes are small enough for any machine.
    scales=_scales(*[Scale(MatrixFactorizationSettings(), epochs=5000, evaluate_every=5)] * 2),
    target=Target("relative_loss", 1e-6, at_least=False),
    selection="relative_loss",
    schedule="constant",
    stop_at_target=True,
    optimizers=_starting.FACTORIZATION,
)

_DIGITS = partial(
    Task,
    # No task of the paper's: it has one size.
    scales=MappingProxyType({"cpu": Scale(ClassifierSettings((100,), batch_size=100), epochs=20, evaluate_every=5)}),
    target=Target("accuracy", 0.97, at_least=True),
    selection="validation_loss",
    schedule="constant",
    stop_at_target=False,
    optimizers=_starting.DIGITS,
)


def _mnist(name: str, summary: str, hidden: tuple[int, ...], inverted: bool) -> Task:
    settings = ClassifierSettings(hidden)
    return Task(
        name=name,
        summary=summary,
        make=partial(classification, load_mnist, inverted),
        scales=_scales(
            cpu=Scale(settings, epochs=5, evaluate_every=10), paper=Scale(settings, epochs=100, evaluate_every=60)
        ),
        target=Target("accuracy", 0.95 if inverted else 0.97, at_least=True),
        selection="validation_loss",
        schedule="constant",
        stop_at_target=False,
        optimizers=_starting.INVERTED_MNIST if inverted else _starting.MNIST,
    )


_VISION_TRANSFORMER = Task(
    name="vit-cifar10",
    summary="Vision transformer of Equinox's tutorial on CIFAR-10 (section 5.3)",
    make=partial(vision_transformer, load_cifar10),
    scales=_scales(
        cpu=Scale(
            VisionTransformerSettings(width=64, hidden=32, heads=4, depth=3, validation_images=1000),
            epochs=1,
            evaluate_every=71,
        ),
        # The tutorial's 100,000 steps.
        paper=Scale(
            VisionTransformerSettings(),
            epochs=128,
            evaluate_every=781,
            optimizers=_starting.WIDE_VISION_TRANSFORMER,
        ),
    ),
    target=Target("accuracy", 0.4, at_least=True),
    selection="validation_loss",
    schedule="linear",
    stop_at_target=False,
    optimizers=_starting.VISION_TRANSFORMER,
)

_SEGMENTATION = Task(
    name="unet-voc",
    summary="U-Net on the masks of PASCAL VOC 2012 (section 5.4)",
    make=partial(segmentation, load_voc),
    scales=_scales(
        cpu=Scale(
            SegmentationSettings(size=96, width=8, depth=3, batch_size=8, validation_images=128),
            epochs=2,
            evaluate_every=45,
        ),
        # The paper gives neither batch size nor number of epochs.
        paper=Scale(SegmentationSettings(), epochs=60, evaluate_every=90, optimizers=_starting.WIDE_SEGMENTATION),
    ),
    target=Target("validation_loss", 1.25, at_least=False),
    selection="validation_loss",
    schedule="linear",
    stop_at_target=False,
    optimizers=_starting.SEGMENTATION,
)

_CHARACTER_TRANSFORMER = Task(
    name="char-transformer",
    summary="Decoder with a tied output layer on the characters of Shakespeare's plays",
    make=partial(character_transformer, load_tinyshakespeare),
    scales=_scales(
        cpu=Scale(
            CharacterTransformerSettings(
                width=96, heads=4, depth=2, context=64, dropout=0.0, batch_size=32, validation_windows=512
            ),
            epochs=2,
            evaluate_every=98,
        ),
        # nanoGPT's 5,000 steps.
        paper=Scale(
            CharacterTransformerSettings(),
            epochs=82,
            evaluate_every=61,
            optimizers=_starting.WIDE_CHARACTER_TRANSFORMER,
        ),
    ),
    target=Target("validation_loss", 2.0, at_least=False),
    selection="validation_loss",
    schedule="linear",
    stop_at_target=False,
    optimizers=_starting.CHARACTER_TRANSFORMER,
)


def _small(
    name: str,
    summary: str,
    make: Callable[[Any, int], Problem],
    scale: Scale,
    target: Target,
    optimizers: Mapping[str, OptimizerSettings],
) -> Task:
    """A task that the paper does not have: it has one size, and its target's metric picks learning rates."""
    return Task(
        name=name,
        summary=summary,
        make=make,
        scales=MappingProxyType({"cpu": scale}),
        target=target,
        selection=target.metric,
        schedule="linear",
        stop_at_target=False,
        optimizers=optimizers,
    )


_SMALL = (
    _small(
        "autoencoder",
        "Deep tanh autoencoder on MNIST, 784-1000-500-250-30 and back",
        partial(autoencoder, load_mnist),
        Scale(AutoencoderSettings(), epochs=3, evaluate_every=40),
        Target("validation_loss", 125.0, at_least=False),
        _starting.AUTOENCODER,
    ),
    _small(
        "char-lstm",
        "LSTM on the characters of Shakespeare's plays",
        partial(character_lstm, load_tinyshakespeare),
        Scale(CharacterLSTMSettings(), epochs=3, evaluate_every=30),
        Target("validation_loss", 1.85, at_least=False),
        _starting.CHARACTER_LSTM,
    ),
    _small(
        "char-decoder",
        "Decoder with rotated queries, gated perceptrons and an output layer of its own on the same characters",
        partial(character_decoder, load_tinyshakespeare),
        Scale(CharacterDecoderSettings(), epochs=3, evaluate_every=30),
        Target("validation_loss", 2.0, at_least=False),
        _starting.CHARACTER_DECODER,
    ),
    _small(
        "regression",
        "ReLU network on 40 correlated features of scales from 0.01 to 100",
        regression,
        Scale(RegressionSettings(), epochs=6, evaluate_every=30),
        Target("validation_loss", 0.45, at_least=False),
        _starting.REGRESSION,
    ),
    _small(
        "burgers",
        "Burgers' equation by a network whose loss has its derivatives, in reverse mode",
        burgers,
        Scale(BurgersSettings(), epochs=5, evaluate_every=25),
        Target("relative_error", 0.55, at_least=False),
        _starting.BURGERS,
    ),
    _small(
        "poisson",
        "Poisson's equation by a network whose loss has its derivatives, in forward mode",
        poisson,
        Scale(PoissonSettings(), epochs=5, evaluate_every=25),
        Target("relative_error", 0.05, at_least=False),
        _starting.POISSON,
    ),
    _small(
        "resnet-cifar10",
        "Small residual network with batch normalisation on CIFAR-10",
        partial(resnet, load_cifar10),
        Scale(ResNetSettings(), epochs=1, evaluate_every=20),
        Target("validation_loss", 1.4, at_least=False),
        _starting.RESNET,
    ),
    _small(
        "graph-network",
        "Graph network that learns the distances in random graphs",
        graph_network,
        Scale(GraphNetworkSettings(), epochs=4, evaluate_every=20),
        Target("validation_loss", 0.005, at_least=False),
        _starting.GRAPH_NETWORK,
    ),
    _small(
        "diffusion",
        "U-Net that predicts the noise in small MNIST digits",
        partial(diffusion, load_mnist),
        Scale(DiffusionSettings(), epochs=1, evaluate_every=40),
        Target("validation_loss", 0.12, at_least=False),
        _starting.DIFFUSION,
    ),
    _small(
        "policy",
        "Advantage actor-critic that swings a pendulum up",
        policy,
        Scale(PolicySettings(), epochs=4, evaluate_every=20),
        Target("mean_cost", 1.0, at_least=False),
        _starting.POLICY,
    ),
    _small(
        "mixture-of-experts",
        "Mixture of experts on clusters that have a linear teacher each",
        mixture_of_experts,
        Scale(MixtureOfExpertsSettings(), epochs=5, evaluate_every=25),
        Target("validation_loss", 0.03, at_least=False),
        _starting.MIXTURE_OF_EXPERTS,
    ),
    _small(
        "fourier-operator",
        "Fourier neural operator from the start of Burgers' equation to its solution",
        fourier_operator,
        Scale(FourierOperatorSettings(), epochs=8, evaluate_every=25),
        Target("validation_loss", 0.015, at_least=False),
        _starting.FOURIER_OPERATOR,
    ),
)

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        _FACTORIZATION(
            name="matrix-factorization",
            summary="Two-layer linear network that fits y = A x, the rows of A scaled from 1 to 1e-5 (section 5.1)",
            make=partial(matrix_factorization, row_scaled),
        ),
        _FACTORIZATION(
            name="matrix-factorization-svd",
            summary="The same with an A whose singular values fall from 1 to 1e-5 of the largest",
            make=partial(matrix_factorization, singular_values_scaled),
        ),
        _DIGITS(
            name="digits",
            summary="Tanh network on scikit-learn's handwritten digits of 8 x 8 pixels",
            make=partial(classification, load_digits, False),
        ),
        _DIGITS(
            name="digits-inverted",
            summary="The same with its pixels inverted, 1 - x",
            make=partial(classification, load_digits, True),
        ),
        _mnist("mnist", "784-800-10 tanh network on MNIST (section 5.2)", (800,), inverted=False),
        _mnist("mnist-inverted", "The same with its pixels inverted, 1 - x", (800,), inverted=True),
        _mnist("mnist-deep", "784-800-800-10 tanh network on MNIST (section 5.2)", (800, 800), inverted=False),
        _mnist("mnist-deep-inverted", "The same with its pixels inverted, 1 - x", (800, 800), inverted=True),
        _VISION_TRANSFORMER,
        _SEGMENTATION,
        _CHARACTER_TRANSFORMER,
        *_SMALL,
    )
}
"""The tasks by name."""


def find_task(name: str) -> Task:
    """The task of that name.

    Raises:
        ExperimentError: there is none; the message lists those that there are.
    """
    if name not in TASKS:
        raise ExperimentError(f"`task` is unknown: {name!r}; known are {', '.join(TASKS)}.")
    return TASKS[name]
