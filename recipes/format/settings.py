"""Settings: how a network is pruned, how it is trained, how it was chosen. Data only, checked when made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from recipes.format.options import check_options, option

Criterion = Literal[
    "global_magnitude", "layer_magnitude", "global_gradient", "snip", "lamp", "lookahead", "movement",
    "accumulated_movement", "random_weights",
]  # fmt: skip
Optimizer = Literal[
    "sgd", "momentum", "adam", "adamw", "nadamw", "radam", "adopt", "lamb", "lion", "laprop", "muon", "rmsprop",
]  # fmt: skip
OPTIMIZERS = get_args(Optimizer)
Policy = Literal["none", "original", "v0", "3a", "rand-m7-mstd0.5-inc1", "rand-m9-mstd0.5-inc1", "augmix-m5-w4-d2"]

# How pictures are resized, and large ones cropped, in timm's words.
Interpolation = Literal["bilinear", "bicubic"]
CropMode = Literal["center", "squash", "border"]
INTERPOLATIONS, CROP_MODES = get_args(Interpolation), get_args(CropMode)

Rewind = Literal["init", "none"]
Among = Literal["negative", "positive", "any"]
Score = Literal["still", "dead", "magnitude", "random"]
ApOrder = Literal["beside", "stages"]
Schedule = Literal["cosine", "tanh", "poly", "step", "none"]
Dtype = Literal["bfloat16", "float16"]
Cost = Literal["latency", "relu_count", "sites", "macs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """How a network is pruned in rounds, see `pruning.run_rounds`; every cut is a fraction of the unpruned weights."""

    criterion: Criterion = option(
        "global_magnitude", "what is cut first: a pruner of the package pruning", choices=get_args(Criterion)
    )
    share: float = option(0.2, "fraction of the unpruned weights that a round cuts", least=0, most=1)
    rounds: int = option(5, "how many rounds", least=0, most=1000)
    rewind: Rewind = option(
        "init", "rewind to the weights before any training after a cut, or not", choices=get_args(Rewind)
    )
    epochs: int | None = option(
        None, "epochs of each training in the rounds (those of fine-tuning if unset)", kind=int, least=0, most=100_000
    )
    ap_share: float = option(
        0.0, "the part of `share` that AP cuts, also a fraction of the unpruned weights", least=0, most=1
    )
    among: Among = option("negative", "which weights AP cuts", choices=get_args(Among))
    score: Score = option("still", "which of them AP cuts first", choices=get_args(Score))
    order: ApOrder = option(
        "beside", "AP cuts right after the base pruner, or after a training between", choices=get_args(ApOrder)
    )

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finetune:
    """How a network is trained; names and meanings are those of timm's train.py where it has them."""

    epochs: int = option(10, "passes over the training images", least=0, most=100_000)
    batch_size: int = option(128, "images a step and process", least=1, most=2**20)
    opt: Optimizer = option("sgd", "optimiser", choices=OPTIMIZERS)
    lr: float = option(0.02, "highest learning rate", least=0)
    momentum: float = option(0.9, "momentum of the optimiser", least=0, most=1)
    weight_decay: float = option(1e-4, "weight decay; activations, biases and norms have none", least=0)
    layer_decay: float | None = option(
        None, "learning rate factor per layer, from the head down", kind=float, least=0, most=1
    )
    clip_grad: float | None = option(None, "largest norm of the gradient", kind=float, least=0)
    sched: Schedule = option("cosine", "schedule of the learning rate", choices=get_args(Schedule))
    warmup_epochs: int = option(0, "epochs of linear rise at the start", least=0, most=100_000)
    warmup_lr: float = option(1e-5, "learning rate at the start of the rise", least=0)
    min_lr: float = option(0.0, "learning rate at the end", least=0)
    decay_epochs: float = option(30.0, "epochs between drops of the schedule `step`", least=0)
    decay_rate: float = option(0.1, "factor of each drop", least=0, most=1)
    smoothing: float = option(0.0, "label smoothing", least=0, most=1)
    mixup: float = option(0.0, "alpha of mixup; 0 is off", least=0)
    cutmix: float = option(0.0, "alpha of cutmix; 0 is off", least=0)
    crop: int = option(4, "pixels that small images are shifted by at most; 0 is off", least=0, most=256)
    hflip: float = option(0.5, "fraction of the images that are mirrored", least=0, most=1)
    cutout: int = option(0, "side of the square that is cut out of small images; 0 is off", least=0, most=256)
    aa: Policy = option("none", "timm's augmentation policy for large images", choices=get_args(Policy))
    reprob: float = option(0.0, "fraction of large images with a random patch erased", least=0, most=1)
    amp: bool = option(False, "mixed precision")
    amp_dtype: Dtype = option("bfloat16", "its lower precision", choices=get_args(Dtype))
    channels_last: bool = option(False, "memory layout NHWC")
    torchcompile: bool = option(False, "compile the model")
    grad_accum_steps: int = option(1, "batches whose gradients make one step", least=1, most=2**20)
    model_ema: bool = option(False, "train an average of the weights; it is the result")
    model_ema_decay: float = option(0.9998, "decay of the average per step", least=0, most=1)
    model_ema_warmup: bool = option(False, "let the average follow faster at the start")
    sync_bn: bool = option(False, "synchronise batch norms over all processes")
    distill: bool = option(False, "also learn from the network before surgery")
    kd_temperature: float = option(4.0, "temperature of its logits", least=0.01)
    task_loss_weight: float = option(1.0, "weight of the label loss next to a teacher's", least=0)
    distill_loss_weight: float = option(1.0, "weight of the teacher's loss", least=0)
    fit_affine: int = option(0, "batches to fit affine stand-ins on, right after surgery", least=0, most=2**20)
    recalibrate: int = option(
        0, "batches to recalibrate batch norms on, after surgery and after every cut", least=0, most=2**20
    )

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How the rules of a recipe were chosen, see `surgery.choose`: a record, from which nothing is done."""

    model: str = option("", "the network it was chosen for, by its full name")
    menu: str = option("", "what was on the menu")
    cost: Cost = option("latency", "what was to be saved", choices=get_args(Cost))
    budget: str = option("", "the budget, such as speedup=1.3")
    cost_before: float = option(0.0, "the cost of the unedited network", least=0)
    cost_predicted: float = option(0.0, "the predicted cost of the edited network", least=0)
    cost_measured: float | None = option(None, "its measured cost, where it is a time", kind=float, least=0)
    damage_predicted: float = option(0.0, "the sum of the divergences of its edits, in nats", least=0)
    damage: float = option(0.0, "the divergence on the images it was chosen on", least=0)
    damage_error: float = option(0.0, "its standard error", least=0)
    reported: float | None = option(None, "the divergence on other images", kind=float, least=0)
    reported_error: float | None = option(None, "its standard error", kind=float, least=0)
    accuracy_change: float | None = option(None, "the change of the accuracy, a fraction", kind=float, least=-1, most=1)
    accuracy_error: float | None = option(None, "its standard error", kind=float, least=0)
    conditions: str = option("", "the images, and how times were measured")

    def __post_init__(self) -> None:
        check_options(self)
