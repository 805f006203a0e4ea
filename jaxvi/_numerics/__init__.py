"""Pytrees, packed matrices, triangular algebra, random numbers and the gamma function."""

from jaxvi._numerics import pytrees as pytrees
from jaxvi._numerics.gamma import betaln as betaln
from jaxvi._numerics.gamma import digamma as digamma
from jaxvi._numerics.gamma import gammaln as gammaln
from jaxvi._numerics.packed import Flat as Flat
from jaxvi._numerics.packed import Packed as Packed
from jaxvi._numerics.pytrees import on_device as on_device
from jaxvi._numerics.random import Keys as Keys
from jaxvi._numerics.random import fold_in as fold_in
from jaxvi._numerics.random import generator_of as generator_of
from jaxvi._numerics.random import normals as normals
from jaxvi._numerics.random import split_key as split_key
from jaxvi._numerics.triangular import diagonal_of as diagonal_of
from jaxvi._numerics.triangular import extract_lower as extract_lower
from jaxvi._numerics.triangular import fill_lower as fill_lower
from jaxvi._numerics.triangular import log_det_lower as log_det_lower
from jaxvi._numerics.triangular import outer_square as outer_square
from jaxvi._numerics.triangular import running_sum as running_sum
from jaxvi._numerics.triangular import triangle_size as triangle_size
from jaxvi._numerics.triangular import with_diagonal as with_diagonal
