"""The catalogue of activations: what can take the place of an activation call, by name."""

from surgery.activations.dispatch import only as only
from surgery.activations.functions.affine import Affine as Affine
from surgery.activations.functions.arithmetic import Arithmetic as Arithmetic
from surgery.activations.functions.fade import Fade as Fade
from surgery.activations.functions.helu import HeLU as HeLU
from surgery.activations.functions.npwlu import NPWLU as NPWLU
from surgery.activations.functions.prelu import FReLU as FReLU
from surgery.activations.functions.prelu import PReLU as PReLU
from surgery.activations.functions.pwlu import PWLU as PWLU
from surgery.activations.functions.rectified_scores import RectifiedScores as RectifiedScores
from surgery.activations.functions.simple import Copy as Copy
from surgery.activations.functions.simple import InPlace as InPlace
from surgery.activations.functions.simple import QuickGELU as QuickGELU
from surgery.activations.functions.simple import SquaredReLU as SquaredReLU
from surgery.activations.functions.simple import Unused as Unused
from surgery.activations.functions.smelu import GSmeLU as GSmeLU
from surgery.activations.functions.smelu import SmeLU as SmeLU
from surgery.activations.functions.smelu import rescu as rescu
from surgery.activations.functions.swish import Swish as Swish
from surgery.activations.registry import build as build
from surgery.activations.registry import describe as describe
from surgery.activations.registry import names as names
from surgery.activations.registry import parameters as parameters
from surgery.activations.registry import register as register
from surgery.activations.registry import row_of as row_of
from surgery.activations.table import Activation as Activation
