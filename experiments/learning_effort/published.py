"""Numbers of Carrasco-Davis, Masis & Saxe (2024), measured from their figures where the paper does not print them.

Each is a curve: step n -> value.
"""

Curve = dict[int, float]

# The single neuron. The control and the trajectories come from their equations at their settings, in float64.
NEURON_GAIN: Curve = {
    0: 0.5000, 50: 0.3278, 100: 0.2367, 150: 0.1819, 200: 0.1454,
    250: 0.1199, 300: 0.1015, 400: 0.0782, 500: 0.0665, 599: 0.0630,
}  # fmt: skip
NEURON_LOSS = {
    "baseline": {0: 0.5, 100: 0.2489, 250: 0.1383, 500: 0.1102, 599: 0.1087},
    "control": {0: 0.5, 100: 0.1813, 250: 0.1211, 500: 0.1084, 599: 0.1075},
}
NEURON_WEIGHT = {
    "baseline": {0: 0.0, 100: 0.1570, 250: 0.2829, 500: 0.3617, 599: 0.3738},
    "control": {0: 0.0, 100: 0.1791, 250: 0.2833, 500: 0.3461, 599: 0.3562},
}
NEURON_VALUE = {"baseline": -0.10293605, "control": -0.09425793}
# Of each sweep, the control at the extremes: field -> value of the field -> curve.
NEURON_SWEEPS: dict[str, dict[float, Curve]] = {
    "gamma": {
        1e-8: {0: 0.240, 10: 0.257, 25: 0.266, 50: 0.245, 100: 0.151, 200: 0.027, 300: 0.002},
        1.0: {0: 0.499, 10: 0.457, 25: 0.398, 50: 0.325, 100: 0.235, 200: 0.144, 300: 0.100},
    },
    "sigma": {
        1e-5: {0: 0.50, 10: 0.50, 25: 0.489, 50: 0.408, 100: 0.306, 200: 0.201, 300: 0.149},
        5.0: {0: 0.101, 10: 0.073, 25: 0.046, 50: 0.022, 100: 0.006, 200: 0.0005, 300: 0.0},
    },
    "beta": {
        1e-5: {0: 0.5, 100: 0.5, 160: 0.5, 200: 0.426, 300: 0.318, 590: 0.226},
        2.0: {0: 0.090, 100: 0.052, 200: 0.020, 300: 0.009, 590: 0.009},
    },
    "decay": {
        0.0: {0: 0.50, 10: 0.462, 25: 0.401, 50: 0.326, 100: 0.232, 200: 0.137, 300: 0.091},
        5.0: {0: 0.314, 10: 0.305, 25: 0.294, 50: 0.280, 100: 0.265, 200: 0.254, 300: 0.251},
    },
    "horizon": {200: {0: 0.475, 199: 0.196}, 1200: {0: 0.50, 1199: 0.026}},
}

# Gain modulation, single task.
GAUSSIANS_LOSS = {
    "baseline": {100: 0.97, 200: 0.533, 750: 0.337},
    "control": {100: 0.68, 200: 0.353, 750: 0.275},
}
GAUSSIANS_VALUE = {"baseline": -3.581, "control": -3.215}  # T = 2000
DIGITS_LOSS = {
    "baseline": {
        250: 0.477, 500: 0.368, 750: 0.265, 1000: 0.257, 2000: 0.251,
        3000: 0.228, 4000: 0.167, 5000: 0.111, 6000: 0.096,
    },
    "control": {
        250: 0.470, 500: 0.332, 750: 0.258, 1000: 0.251, 2000: 0.228,
        3000: 0.165, 4000: 0.109, 5000: 0.096, 6000: 0.093,
    },
}  # fmt: skip

# Task switch: the loss at each switch, and the size of the control there relative to its largest.
SWITCH_LOSS = {
    "baseline": dict(
        zip(
            range(0, 23000, 1800),
            (0.995, 1.498, 2.45, 1.525, 2.576, 1.501, 2.586, 1.497, 2.588, 1.500, 2.589, 1.498),
            strict=False,
        )
    ),
    "control": dict(
        zip(
            range(0, 23000, 1800),
            (0.994, 1.300, 1.391, 0.558, 0.574, 0.324, 0.410, 0.270, 0.358, 0.248, 0.338, 0.234),
            strict=False,
        )
    ),
}
SWITCH_EFFORT: Curve = dict(
    zip(
        range(0, 23000, 1800),
        (0.696, 0.876, 0.996, 0.744, 0.766, 0.501, 0.585, 0.376, 0.467, 0.307, 0.405, 0.259),
        strict=False,
    )
)
