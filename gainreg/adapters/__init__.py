"""Initial weights in each framework's own terms: a module a framework, with the same arguments.

Args:
    activation: the one whose output feeds the weights, "identity" where data does: a name, a
        ``gainreg.Activation``, a ``GainEntry``, one of the framework's own functions or layers, a
        ``functools.partial`` of one, or any callable on the framework's tensors.
    mode: "fan_in" keeps the forward variance, "fan_out" the gradient variance; "fan_avg" is the
        compromise of Glorot and Bengio (2010); "critical" keeps both variances, by means of a bias
        of standard deviation ``entry.critical_bias_std``, with weights of standard deviation
        backward_gain·√(width/fan_in), if a whole stack is so and what enters it has ``std``.
    std: standard deviation of the pre-activation, not its variance. None for that of the critical
        point, to which depth brings the signal back (GELU: 1.887), and for 1 where every std is
        critical (ReLU) or none but 0 (tanh).
    table: a ``GainTable`` or its path: every constant comes from there. None for the table that
        gainreg ships and, for what it lacks, a live answer.
    **params: the activation's parameters, where they differ from the defaults.

Distributions, all of mean 0 and the same mean square: normal; uniform; truncated normal, cut off at
twice the std that it had whole, and widened beforehand so that what is left has the std asked for;
orthogonal, a random semi-orthogonal matrix one side of which are the outputs (Saxe et al. 2014,
arXiv:1312.6120), drawn in float32 for half precision, which has no QR factorisation.

Raises:
    ParameterError: a shape, layer, mode, param or std is not what it must be; the mode "critical"
        finds no bias; no std is given where none is critical.
    MomentError: the gain does not exist, as "fan_out" where φ jumps, or "critical" at a std where
        gradients die out.
    TableError: ``table`` lacks the entry.
    UnknownActivationError, PluginError: as ``gainreg.resolve``.
"""
