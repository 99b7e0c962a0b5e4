"""The features that a neuron's weights read, one kind a file, and the moments and products of its metric."""

from lnb._features._complex import ComplexFeatures as ComplexFeatures
from lnb._features._convolution import ConvolutionFeatures as ConvolutionFeatures
from lnb._features._dense import DenseFeatures as DenseFeatures
from lnb._features._embedding import EmbeddingFeatures as EmbeddingFeatures
from lnb._features._feature_set import FeatureRead as FeatureRead
from lnb._features._feature_set import FeatureSet as FeatureSet
from lnb._features._jacobian import JacobianFeatures as JacobianFeatures
from lnb._features._jacobian import JacobianRead as JacobianRead
from lnb._features._map import Arrays as Arrays
from lnb._features._map import FeatureMap as FeatureMap
from lnb._features._map import LoopFeatures as LoopFeatures
from lnb._features._map import RunWeight as RunWeight
from lnb._features._map import fill_value as fill_value
from lnb._features._ragged import GroupsOfIndices as GroupsOfIndices
from lnb._features._ragged import GroupsOfSizes as GroupsOfSizes
from lnb._features._ragged import GroupsOfSteps as GroupsOfSteps
from lnb._features._ragged import RaggedRead as RaggedRead
from lnb._features._tied import TiedFeatureSet as TiedFeatureSet
from lnb._features._weight_read import WeightRead as WeightRead

AnyFeatureSet = FeatureSet | TiedFeatureSet | JacobianFeatures
"""The features of a neuron, of whatever kind."""
