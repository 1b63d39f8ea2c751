"""Surgery: find every activation call of a vision network, and erase or exchange the ones you name.

Look with `find_sites`, cut with `transform`, go back with `undo`, keep the result with `save` and `load`.
"""

from surgery import activations as activations
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
from surgery.fading import set_progress as set_progress
from surgery.fading import settle as settle
from surgery.find import find_sites as find_sites
from surgery.fold import fold_affine as fold_affine
from surgery.groups import parameter_groups as parameter_groups
from surgery.history import history_of as history_of
from surgery.initialize import initialize as initialize
from surgery.keep import load as load
from surgery.keep import save as save
from surgery.observe import observing as observing
from surgery.plan import Edit as Edit
from surgery.plan import Plan as Plan
from surgery.plan import make_plan as make_plan
from surgery.recalibrate import recalibrate as recalibrate
from surgery.report import Report as Report
from surgery.rules import Recipe as Recipe
from surgery.rules import Rule as Rule
from surgery.rules import erase as erase
from surgery.rules import erase_relu as erase_relu
from surgery.rules import rectify_scores as rectify_scores
from surgery.rules import swap as swap
from surgery.sites import Site as Site
from surgery.sites import Sites as Sites
from surgery.stand_in import fit_affine as fit_affine
from surgery.steps import register_step as register_step
from surgery.transform import apply_plan as apply_plan
from surgery.transform import transform as transform
from surgery.transform import transform_ as transform_
from surgery.transform import undo as undo
