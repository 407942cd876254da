"""The engine `pos`: random priorities by access (CAV 2018)."""

from fuzzvm.runs.engines.strategy_loop import StrategyEngine
from fuzzvm.runs.strategies.pos import STRATEGY

ENGINE = StrategyEngine("pos", "random priorities by access, redrawn where accesses conflict (CAV 2018)", STRATEGY)
