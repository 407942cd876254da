"""The engine `urw`: interleaving-uniform random walk (ASPLOS 2025)."""

from fuzzvm.runs.engines.strategy_loop import StrategyEngine
from fuzzvm.runs.strategies.urw import STRATEGY

ENGINE = StrategyEngine("urw", "interleaving-uniform random walk (ASPLOS 2025)", STRATEGY)
