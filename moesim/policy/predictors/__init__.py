"""Predictors: which experts later layers, or the next token, will ask for."""

from moesim.policy.predictors.activation import ActivationMatrices
from moesim.policy.predictors.maps import ExpertMaps
from moesim.policy.predictors.markov import Markov, NextToken
from moesim.policy.predictors.oracles import NextGate, NoisyOracle, oracle, path_oracle
from moesim.policy.predictors.popular import Popular
from moesim.policy.predictors.quality import Quality, quality
from moesim.policy.predictors.recent import RecentScores
from moesim.policy.predictors.whole import WholeLayers

__all__ = [
    "ActivationMatrices",
    "ExpertMaps",
    "Markov",
    "NextGate",
    "NextToken",
    "NoisyOracle",
    "Popular",
    "Quality",
    "RecentScores",
    "WholeLayers",
    "oracle",
    "path_oracle",
    "quality",
]
