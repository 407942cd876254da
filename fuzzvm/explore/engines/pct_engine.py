"""The engine `pct`: priorities with few change points (ASPLOS 2010)."""

from fuzzvm.explore.engines.strategy_loop import StrategyEngine
from fuzzvm.explore.strategies.pct import STRATEGY

ENGINE = StrategyEngine("pct", "priorities with few change points (ASPLOS 2010)", STRATEGY)
