"""Per-layer figures of Mixtral-8x7B that systems publish with their code; facts, with where they stand.

They were measured by the authors on their calibration text; for any other model they are an assumption.
"""

from __future__ import annotations

#: Sensitivity F_l of each layer to a dropped expert: list ``weight`` in ``run.py`` of PKU-SEC-Lab/AdapMoE
#: (commit 297c349), to four significant digits.
ADAPMOE_SENSITIVITY = (
    46.69, 17.30, 13.02, 7.641, 4.169, 2.230, 1.256, 0.8445,
    0.6838, 0.5603, 0.5126, 0.4780, 0.4454, 0.4356, 0.3836, 0.3099,
    0.2331, 0.1761, 0.1384, 0.1138, 0.1047, 0.09543, 0.08625, 0.07713,
    0.06938, 0.06109, 0.05025, 0.04256, 0.03350, 0.02527, 0.02068, 0.02295,
)  # fmt: skip

#: Accuracy of the next layer's gate on this layer's hidden state, layers 2 to 32: list ``accs`` in
#: ``src/dp.py`` of PKU-SEC-Lab/AdapMoE (commit 297c349), to four digits. The first layer has no prediction.
ADAPMOE_NEXT_GATE = (
    0.5663, 0.7211, 0.7891, 0.8656, 0.8588, 0.8299, 0.8401,
    0.8486, 0.8010, 0.8980, 0.8980, 0.8929, 0.9099, 0.9252, 0.8810,
    0.9150, 0.9388, 0.9048, 0.8793, 0.8759, 0.8929, 0.8793, 0.8759,
    0.8878, 0.8844, 0.9217, 0.9133, 0.8861, 0.8997, 0.9031, 0.8503,
)  # fmt: skip

#: Part of tokens that take one expert under AdapMoE's gate, by layer: list ``top1_ratios`` in ``src/dp.py``
#: of PKU-SEC-Lab/AdapMoE (commit 297c349), to four significant digits.
ADAPMOE_SINGLE = (
    1.901e-05, 0.03476, 0.004884, 0.0009399, 0.0003762, 0.002507, 0.007886, 0.03413,
    0.03451, 0.04913, 0.01299, 0.01957, 0.02958, 0.005487, 0.01552, 0.02841,
    0.06389, 0.071, 0.1407, 0.2803, 0.2987, 0.3651, 0.4145, 0.3556,
    0.4952, 0.521, 0.5479, 0.618, 0.78, 0.884, 0.9754, 0.8577,
)  # fmt: skip

#: Part of the tokens that AdapMoE's gate leaves with one expert, by layer: list ``top1_ratios`` in
#: ``src/dp.py`` of PKU-SEC-Lab/AdapMoE (commit 297c349), to four digits.
ADAPMOE_SINGLE = (
    0.0000, 0.0348, 0.0049, 0.0009, 0.0004, 0.0025, 0.0079, 0.0341,
    0.0345, 0.0491, 0.0130, 0.0196, 0.0296, 0.0055, 0.0155, 0.0284,
    0.0639, 0.0710, 0.1407, 0.2803, 0.2987, 0.3651, 0.4145, 0.3556,
    0.4952, 0.5210, 0.5479, 0.6180, 0.7800, 0.8840, 0.9754, 0.8577,
)  # fmt: skip

#: Ratio of the second router weight to the first below which MC-MoE drops the second expert: list ``beta``
#: in ``expert_weight.py`` of Aaronhuang-778/MC-MoE (commit 6fcc827).
MC_MOE_BETA = (
    0.402, 0.494, 0.463, 0.484, 0.478, 0.491, 0.523, 0.521,
    0.544, 0.570, 0.574, 0.489, 0.503, 0.618, 0.568, 0.535,
    0.559, 0.519, 0.537, 0.487, 0.469, 0.461, 0.461, 0.469,
    0.458, 0.418, 0.433, 0.418, 0.406, 0.433, 0.447, 0.535,
)  # fmt: skip
