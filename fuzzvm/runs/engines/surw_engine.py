"""The engine `surw`: the selectively uniform random walk (ASPLOS 2025)."""

from fuzzvm.runs.engines.strategy_loop import StrategyEngine
from fuzzvm.runs.strategies.surw import STRATEGY

ENGINE = StrategyEngine("surw", "every order of the accesses to a few places alike (ASPLOS 2025)", STRATEGY)
