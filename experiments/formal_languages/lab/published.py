"""What is reported of Goodale et al. (2025), mean continuation F1 over prefixes of at most 10 symbols.

Only the paper's abstract, beginning and one caption were at hand. These numbers are what third parties read off its
figures: approximate, for networks of 1024 units, and the number of strings adapted to is not known. They serve for
orientation, and no claim is judged by them.
"""

SOURCE = "as others read it off Goodale et al. 2025: approximate, 1024 units, N unknown"

F1 = {
    "none": 0.2,
    "minimalist:simple": 0.55,
    "minimalist:uniform": 0.55,
    "minimalist:complex": 0.55,
    "An": 0.25,
    "AnBn": 0.55,
    "AnBnCn": 0.55,
}
"""LSTM, by source."""

GRU = {"none": 0.2, "AnBnCn": 0.2}
"""GRU, by source."""

CLASSES = {
    "none": (0.3, 0.1, 0.1),
    "regular": (0.35, 0.15, 0.1),
    "context-free": (0.6, 0.5, 0.3),
    "context-sensitive": (0.6, 0.5, 0.3),
}
"""LSTM: class of the source -> by class of the target (regular, context-free, context-sensitive)."""
