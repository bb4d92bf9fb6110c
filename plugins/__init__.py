"""The built-in activations, one file a family; found by entry point, like anyone's plugin."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
