"""Surgery: find every activation call of a vision network, and erase or swap the ones you name.

Look with `find_sites`, edit with `transform`, revert with `undo`, keep the result with `save` and `load`.
"""

from importlib.metadata import PackageNotFoundError, version

from surgery import activations, deploy, old_names
from surgery.budget.choice import choose
from surgery.budget.front import Front
from surgery.cost.block_times import time_blocks
from surgery.cost.counts import macs, relu_count
from surgery.cost.table import LatencyTable
from surgery.deploy.torch_modules import plain
from surgery.drawing.draw import draw
from surgery.errors import (
    BadFile,
    BadValue,
    CannotEdit,
    CannotLook,
    CountChanged,
    DynamicShapes,
    NoExample,
    NotConvertible,
    NotEdited,
    NotEqual,
    NothingPicked,
    NotInstalled,
    NotProved,
    RuleConflict,
    SurgeryError,
    UnknownName,
    WrongModel,
)
from surgery.history.history import history_of
from surgery.history.plan_data import register_step
from surgery.look.finder import find_sites
from surgery.look.observe import observing
from surgery.look.site import Site, Sites
from surgery.merging.groups import LinearGroup, LinearGroups, linear_groups
from surgery.merging.merged_model import merge
from surgery.merging.report import MergeReport
from surgery.plan.plan import Edit, Plan, make_plan
from surgery.plan.report import Report
from surgery.plan.rules import Recipe, Rule, drop, erase, erase_relu, move_padding, rectify_scores, swap
from surgery.predictions.prediction_difference import prediction_difference
from surgery.repair.affine_fit import fit_affine
from surgery.repair.affine_fold import fold_affine
from surgery.repair.batch_norm_stats import recalibrate
from surgery.schedule.param_groups import parameter_groups
from surgery.schedule.progress import set_progress, settle
from surgery.schedule.weight_initialization import initialize
from surgery.serialization.save_load import load, save
from surgery.simplification.simplified_model import simplify
from surgery.transforms import apply_plan, transform, transform_, undo

__all__ = [
    "BadFile",
    "BadValue",
    "CannotEdit",
    "CannotLook",
    "CountChanged",
    "DynamicShapes",
    "Edit",
    "Front",
    "LatencyTable",
    "LinearGroup",
    "LinearGroups",
    "MergeReport",
    "NoExample",
    "NotConvertible",
    "NotEdited",
    "NotEqual",
    "NotInstalled",
    "NotProved",
    "NothingPicked",
    "Plan",
    "Recipe",
    "Report",
    "Rule",
    "RuleConflict",
    "Site",
    "Sites",
    "SurgeryError",
    "UnknownName",
    "WrongModel",
    "__version__",
    "activations",
    "apply_plan",
    "choose",
    "deploy",
    "draw",
    "drop",
    "erase",
    "erase_relu",
    "find_sites",
    "fit_affine",
    "fold_affine",
    "history_of",
    "initialize",
    "linear_groups",
    "load",
    "macs",
    "make_plan",
    "merge",
    "move_padding",
    "observing",
    "parameter_groups",
    "plain",
    "prediction_difference",
    "recalibrate",
    "rectify_scores",
    "register_step",
    "relu_count",
    "save",
    "set_progress",
    "settle",
    "simplify",
    "swap",
    "time_blocks",
    "transform",
    "transform_",
    "undo",
]

try:
    __version__ = version("activation-surgery")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+unknown"

old_names.install()


def __dir__() -> list[str]:
    return __all__
