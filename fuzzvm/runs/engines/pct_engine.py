"""The engine `pct`: priorities with few change points (ASPLOS 2010)."""

from fuzzvm.runs.engines.strategy_loop import StrategyEngine
from fuzzvm.runs.strategies.pct import STRATEGY

ENGINE = StrategyEngine("pct", "priorities with few change points (ASPLOS 2010)", STRATEGY)
