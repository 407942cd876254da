"""The engine `random`: random walk, the baseline."""

from fuzzvm.runs.engines.strategy_loop import StrategyEngine
from fuzzvm.runs.strategies.random_walk import STRATEGY

ENGINE = StrategyEngine("random", "random walk, the baseline", STRATEGY)
