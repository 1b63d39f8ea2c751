"""The catalogue of activations: what can take the place of an activation call, by name."""

from surgery.activations.catalogue import Activation as Activation
from surgery.activations.catalogue import build as build
from surgery.activations.catalogue import names as names
from surgery.activations.catalogue import parameters as parameters
from surgery.activations.catalogue import register as register
from surgery.activations.fade import Fade as Fade
from surgery.activations.parts import Copy as Copy
from surgery.activations.parts import InPlace as InPlace
from surgery.activations.parts import QuickGELU as QuickGELU
from surgery.activations.parts import SquaredReLU as SquaredReLU
