"""The engine `urw`: interleaving-uniform random walk (ASPLOS 2025)."""

from fuzzvm.explore.engines.strategy_loop import StrategyEngine
from fuzzvm.explore.strategies.urw import STRATEGY

ENGINE = StrategyEngine("urw", "interleaving-uniform random walk (ASPLOS 2025)", STRATEGY)
