"""Tiny models that state their own sites; `stated` says how."""

from tests.models.blocks import AddReluBlock as AddReluBlock
from tests.models.blocks import AddReluNet as AddReluNet
from tests.models.blocks import BasicBlock as BasicBlock
from tests.models.blocks import Bottleneck as Bottleneck
from tests.models.blocks import BottleneckNet as BottleneckNet
from tests.models.blocks import ConvRelu as ConvRelu
from tests.models.blocks import DenseLayer as DenseLayer
from tests.models.blocks import DenseNet as DenseNet
from tests.models.blocks import Fire as Fire
from tests.models.blocks import FireNet as FireNet
from tests.models.blocks import InceptionNet as InceptionNet
from tests.models.blocks import InvertedResidual as InvertedResidual
from tests.models.blocks import Mixed as Mixed
from tests.models.blocks import MobileNet as MobileNet
from tests.models.blocks import Overwritten as Overwritten
from tests.models.blocks import PlainNet as PlainNet
from tests.models.blocks import PreActBlock as PreActBlock
from tests.models.blocks import PreActNet as PreActNet
from tests.models.blocks import ResidualNet as ResidualNet
from tests.models.blocks import ShuffleNet as ShuffleNet
from tests.models.blocks import ShuffleUnit as ShuffleUnit
from tests.models.calls import AliasBlocks as AliasBlocks
from tests.models.calls import EveryModule as EveryModule
from tests.models.calls import ForeignClasses as ForeignClasses
from tests.models.calls import FreeFunction as FreeFunction
from tests.models.calls import FunctionalOptions as FunctionalOptions
from tests.models.calls import FunctionalSpellings as FunctionalSpellings
from tests.models.calls import Mlp as Mlp
from tests.models.calls import MyReLU as MyReLU
from tests.models.calls import NormAct as NormAct
from tests.models.calls import QuickGELU as QuickGELU
from tests.models.calls import SquaredReLU as SquaredReLU
from tests.models.calls import ThriceInPlace as ThriceInPlace
from tests.models.calls import TimmOwnAutograd as TimmOwnAutograd
from tests.models.calls import TwiceUsed as TwiceUsed
from tests.models.calls import TwoNames as TwoNames
from tests.models.calls import free_swish as free_swish
from tests.models.gates import LinearAttention as LinearAttention
from tests.models.gates import SigmoidHead as SigmoidHead
from tests.models.gates import SqueezeExcite as SqueezeExcite
from tests.models.gates import SqueezeExciteNet as SqueezeExciteNet
from tests.models.gates import SwiGlu as SwiGlu
from tests.models.guests import GRAPH_SITES as GRAPH_SITES
from tests.models.guests import DependsOnNumbers as DependsOnNumbers
from tests.models.guests import Encoder as Encoder
from tests.models.guests import HalfPrecision as HalfPrecision
from tests.models.guests import PlainTensors as PlainTensors
from tests.models.guests import Raises as Raises
from tests.models.guests import Stateful as Stateful
from tests.models.guests import UserHooks as UserHooks
from tests.models.guests import graph_model as graph_model
from tests.models.loops import CallsSuper as CallsSuper
from tests.models.loops import Head as Head
from tests.models.loops import HeadOnLevels as HeadOnLevels
from tests.models.loops import HelperMethod as HelperMethod
from tests.models.loops import Inherited as Inherited
from tests.models.loops import ListLoop as ListLoop
from tests.models.loops import Parent as Parent
from tests.models.loops import SharedInComprehension as SharedInComprehension
from tests.models.loops import SuperForward as SuperForward
from tests.models.loops import TrainOnly as TrainOnly
from tests.models.loops import WhileLoop as WhileLoop
from tests.models.stated import BOTH as BOTH
from tests.models.stated import Facts as Facts
from tests.models.stated import Stated as Stated
from tests.models.stated import picture as picture
from tests.models.stated import randomise as randomise
from tests.models.stated import site as site
from tests.models.transformers import Attention as Attention
from tests.models.transformers import ConvNext as ConvNext
from tests.models.transformers import ConvNextBlock as ConvNextBlock
from tests.models.transformers import TinyVit as TinyVit
from tests.models.transformers import VitBlock as VitBlock

STATED: tuple[type[Stated], ...] = (
    TwiceUsed,
    ThriceInPlace,
    TwoNames,
    AliasBlocks,
    FunctionalSpellings,
    FunctionalOptions,
    EveryModule,
    TimmOwnAutograd,
    NormAct,
    ForeignClasses,
    FreeFunction,
    SqueezeExciteNet,
    SwiGlu,
    LinearAttention,
    SigmoidHead,
    ResidualNet,
    BottleneckNet,
    PreActNet,
    InceptionNet,
    DenseNet,
    FireNet,
    ShuffleNet,
    MobileNet,
    PlainNet,
    TinyVit,
    ConvNext,
    AddReluNet,
    Overwritten,
    ListLoop,
    SharedInComprehension,
    WhileLoop,
    HeadOnLevels,
    TrainOnly,
    HelperMethod,
    SuperForward,
    DependsOnNumbers,
    Stateful,
    PlainTensors,
    HalfPrecision,
    UserHooks,
    Encoder,
)
