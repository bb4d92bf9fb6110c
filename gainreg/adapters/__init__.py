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

Whole models, too, are planned, set and measured by the same functions in each framework that has
models: ``plan``, ``apply``, ``measure`` and ``initialize``, with an underscore where they work in
place.

Args:
    kwargs: the model's keyword arguments.
    residual: what all branches of a residual stream together add to it, as a share of its second
        moment where it begins; None to let each branch add a second moment of 1.
    output_std: standard deviation of the model's output.
    criterion: "forward", or "critical" where the activations have a critical point.
    plan: made by ``plan``, here or elsewhere.
    distribution: "normal", "truncated_normal" (at twice its std, which is widened), "uniform" or
        "orthogonal"; all have the same mean square.
    calibrate: set each weight from the measured second moment of what feeds it instead of the
        predicted one, just before its first use.
    backward: measure gradients too: those of a random loss, the sum of the outputs times
        independent standard normal numbers.

Raises:
    ParameterError: an option, the model or its inputs are not what they must be.
    PlanError: the plan is of another model.
    MomentError: a signal dies or explodes on the way, naming the weight that it feeds.
    Exception: the model's own errors, with a note.
"""
