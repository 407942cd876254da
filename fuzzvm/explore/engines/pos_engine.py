"""The engine `pos`: random priorities by access (CAV 2018)."""

from fuzzvm.explore.engines.strategy_loop import StrategyEngine
from fuzzvm.explore.strategies.pos import STRATEGY

ENGINE = StrategyEngine("pos", "random priorities by access, redrawn where accesses conflict (CAV 2018)", STRATEGY)
