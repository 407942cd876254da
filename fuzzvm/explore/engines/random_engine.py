"""The engine `random`: random walk, the baseline."""

from fuzzvm.explore.engines.strategy_loop import StrategyEngine
from fuzzvm.explore.strategies.random_walk import STRATEGY

ENGINE = StrategyEngine("random", "random walk, the baseline", STRATEGY)
