"""The catalogue of activations: what can take the place of an activation call, by name."""

from surgery.activations.affine import Affine as Affine
from surgery.activations.arithmetic import Arithmetic as Arithmetic
from surgery.activations.catalogue import build as build
from surgery.activations.catalogue import describe as describe
from surgery.activations.catalogue import names as names
from surgery.activations.catalogue import parameters as parameters
from surgery.activations.catalogue import register as register
from surgery.activations.catalogue import row_of as row_of
from surgery.activations.classifier import RectifiedScores as RectifiedScores
from surgery.activations.fade import Fade as Fade
from surgery.activations.forms import only as only
from surgery.activations.helu import HeLU as HeLU
from surgery.activations.npwlu import NPWLU as NPWLU
from surgery.activations.parts import Copy as Copy
from surgery.activations.parts import InPlace as InPlace
from surgery.activations.parts import QuickGELU as QuickGELU
from surgery.activations.parts import SquaredReLU as SquaredReLU
from surgery.activations.parts import Unused as Unused
from surgery.activations.pwlu import PWLU as PWLU
from surgery.activations.rows import Activation as Activation
from surgery.activations.slopes import FReLU as FReLU
from surgery.activations.slopes import PReLU as PReLU
from surgery.activations.smooth import GSmeLU as GSmeLU
from surgery.activations.smooth import SmeLU as SmeLU
from surgery.activations.smooth import rescu as rescu
from surgery.activations.swish import Swish as Swish
