"""The engine `surw`: the selectively uniform random walk (ASPLOS 2025)."""

from fuzzvm.explore.engines.strategy_loop import StrategyEngine
from fuzzvm.explore.strategies.surw import STRATEGY

ENGINE = StrategyEngine("surw", "every order of the accesses to a few places alike (ASPLOS 2025)", STRATEGY)
