"""Systems that move fewer bits."""

from __future__ import annotations

from moesim.policy import Composition, Constant, Gate, Residency, Transfer
from moesim.policy.gates import AdmissionMask, SecondRatio
from moesim.policy.precision import Precision
from moesim.policy.precisions import Nested, RankedPrecision, StaticBits
from moesim.policy.predictors import Markov
from moesim.policy.slots import AsRouted
from moesim.systems.compositions.caching import _early_gates
from moesim.systems.compositions.types import Asked, Shape, System


def _hobbit(shape: Shape, ask: Asked) -> Composition:
    precision: Precision | None = None
    terms: dict[str, float] = {}
    if shape.weights:
        precision = RankedPrecision()
    else:
        ask.without("router weights: all is loaded in high precision, and its term of the key is left out")
        terms = {"lhu": 0.0}
    horizon = int(ask.take("stacked_gates", 3, 1, 4, "layers predicted at once, which no source states"))
    return Composition(
        # Its records are forgotten after a sequence, the experts stay: no reset of the pool.
        residency=Residency("hobbit", lookup="token_batch", parameters=terms),
        predictor=_early_gates(shape, ask, horizon),
        transfer=Transfer(width=shape.top_k, distance=horizon, order="near"),
        precision=precision,
    )


def _edgemoe(shape: Shape, ask: Asked) -> Composition:
    ask.without("what accuracy each expert loses by few bits: its load and weight stand for its importance")
    mean = ask.take("mean_bits", 4.0, 3.0, 8.0, "of 2, 4 and 8 bits; the mix depends on the accuracy asked")
    ask.without("the score of its cache, which no source confirms: the least frequently used leaves")
    order = 2 if shape.layers * shape.experts**3 <= 256_000_000 else 1
    return Composition(
        residency=Residency("lfu", pool="global", lookup="token_batch"),
        predictor=Markov(shape.top_k, order=order),
        transfer=Transfer(width=shape.top_k),
        precision=StaticBits(mean, (2, 4, 8), required=()),
    )


def _d2moe(shape: Shape, ask: Asked) -> Composition:
    precision: Precision = Constant(4.0)
    if shape.weights:
        ask.without("its second router: the width goes by the first router's weight")
        precision = Nested()
    else:
        ask.without("router weights: every expert has all 4 bits")
    return Composition(residency=Residency("lru", pool="global", lookup="token_batch"), precision=precision)


def _mc_moe(gamma: float, shape: Shape, ask: Asked) -> Composition:
    gate: Gate = AsRouted()
    if shape.weights:
        if shape.layers != 32:
            ask.without("the model's ratios for dropping: Mixtral's, stretched by relative depth")
        ask.without("attention: no token is protected from losing experts")
        gate = SecondRatio()
    else:
        ask.without("router weights: no expert is dropped, and importance is load alone")
    ask.without("errors of the quantised weights: 2^-bits for every expert")
    mean = ask.take("mean_bits", 2.5, 1.5, 2.5, "budgets of 12 to 20 bits per 8 experts")
    return Composition(
        residency=Residency("lru", lookup="token_batch"),
        gate=gate,
        precision=StaticBits(mean, gamma=gamma),
    )


def _mc_moe_paper(shape: Shape, ask: Asked) -> Composition:
    return _mc_moe(2.0, shape, ask)


def _mc_moe_code(shape: Shape, ask: Asked) -> Composition:
    # gamma is parsed and not used: the errors are raised to alpha = 1.
    return _mc_moe(1.0, shape, ask)


def _qmoe(shape: Shape, ask: Asked) -> Composition:  # noqa: ARG001
    ratio = ask.take("compression", 20.07, 16.0, 20.07, "20.07 of 16 bits reached on SwitchTransformer-c2048")
    return Composition(residency=Residency("lru", lookup="token_batch"), precision=Constant(16.0 / ratio))


def _premoe(shape: Shape, ask: Asked) -> Composition:
    ask.without("the router's next choice: rerouted to the heaviest expert that stays")
    kept = max(min(shape.per_layer, shape.experts), min(shape.top_k, shape.experts))
    return Composition(
        residency=Residency("lru", lookup="token_batch", start="popular"), gate=AdmissionMask(kept)
    )


SYSTEMS = (
    System("hobbit", "misses in high or low precision or skipped, by rank; stacked gates", _hobbit),
    System("edgemoe", "bits per expert; guesses by the last two layers' choice", _edgemoe, learns=True),
    System("d2moe", "nested widths by router weight", _d2moe, learns=True),
    System("mc-moe", "bits per expert by integer programme; light seconds dropped", _mc_moe_paper,
           _mc_moe_code, learns=True),
    System("qmoe", "all experts in less than one bit", _qmoe),
    System("premoe", "the task's experts alone, the rest rerouted", _premoe, learns=True),
)  # fmt: skip
