"""Once-for-All as a timm plug-in: `import timm, timm_ofa` registers every network of this package with timm."""
from . import models as models
from . import named as named
from . import supernet as supernet
from .accuracy import recalibrate_bn as recalibrate_bn
from .convert import convert_upstream as convert_upstream
from .errors import InputError as InputError
from .hub import publish as publish
from .hub import publish_family as publish_family
from .hub import pull as pull
from .latency import DeviceProfile as DeviceProfile
from .latency import load_profile as load_profile
from .predictor import AccuracyPredictor as AccuracyPredictor
from .predictor import AdditivePredictor as AdditivePredictor
from .released import load_upstream_predictor as load_upstream_predictor
from .search import Candidate as Candidate
from .search import Limit as Limit
from .search import MaxMacs as MaxMacs
from .search import MaxMemory as MaxMemory
from .search import MaxParams as MaxParams
from .search import search as search
from .space import Arch as Arch
from .space import SearchSpace as SearchSpace
from .space import load_space as load_space
from .specialize import specialize as specialize

__version__ = '0.1.0'
