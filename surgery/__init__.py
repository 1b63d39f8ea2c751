"""Surgery: find every activation call of a vision network, and erase or exchange the ones you name.

Look with `find_sites`, cut with `transform`, go back with `undo`, keep the result with `save` and `load`.
"""

from surgery import activations as activations
from surgery import old_names
from surgery.errors import BadFile as BadFile
from surgery.errors import BadValue as BadValue
from surgery.errors import CannotEdit as CannotEdit
from surgery.errors import CannotLook as CannotLook
from surgery.errors import CountChanged as CountChanged
from surgery.errors import NotEdited as NotEdited
from surgery.errors import NothingPicked as NothingPicked
from surgery.errors import NotProved as NotProved
from surgery.errors import RuleConflict as RuleConflict
from surgery.errors import SurgeryError as SurgeryError
from surgery.errors import UnknownName as UnknownName
from surgery.errors import WrongModel as WrongModel
from surgery.history.history import history_of as history_of
from surgery.history.plan_data import register_step as register_step
from surgery.look.finder import find_sites as find_sites
from surgery.look.observe import observing as observing
from surgery.look.site import Site as Site
from surgery.look.site import Sites as Sites
from surgery.plan.plan import Edit as Edit
from surgery.plan.plan import Plan as Plan
from surgery.plan.plan import make_plan as make_plan
from surgery.plan.report import Report as Report
from surgery.plan.rules import Recipe as Recipe
from surgery.plan.rules import Rule as Rule
from surgery.plan.rules import erase as erase
from surgery.plan.rules import erase_relu as erase_relu
from surgery.plan.rules import rectify_scores as rectify_scores
from surgery.plan.rules import swap as swap
from surgery.repair.affine_fit import fit_affine as fit_affine
from surgery.repair.affine_fold import fold_affine as fold_affine
from surgery.repair.batch_norm_stats import recalibrate as recalibrate
from surgery.schedule.initialization import initialize as initialize
from surgery.schedule.param_groups import parameter_groups as parameter_groups
from surgery.schedule.progress import set_progress as set_progress
from surgery.schedule.progress import settle as settle
from surgery.serialization.save_load import load as load
from surgery.serialization.save_load import save as save
from surgery.transforms import apply_plan as apply_plan
from surgery.transforms import transform as transform
from surgery.transforms import transform_ as transform_
from surgery.transforms import undo as undo

old_names.install()
