"""Which errors the user can do something about: one line on stderr, exit status 2.

A module of its own, since it needs all layers: only a command that has failed imports it.
"""

from __future__ import annotations

from fuzzvm.campaigns.cluster.errors import ClusterError
from fuzzvm.campaigns.errors import CampaignError
from fuzzvm.campaigns.plain import NotReproducibleError
from fuzzvm.compiled.errors import ImageError
from fuzzvm.corpus.errors import CorpusError
from fuzzvm.export.errors import ExportError
from fuzzvm.files.errors import FileError
from fuzzvm.kbuild.errors import KbuildError
from fuzzvm.machine.errors import ProgramError, ScheduleError, StoppedError
from fuzzvm.mitigations.errors import MitigationError
from fuzzvm.realkernel.errors import RealKernelError
from fuzzvm.runs.engines import EngineError
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.supervision.errors import UserCodeError

INPUT_ERRORS: tuple[type[Exception], ...] = (
    CampaignError,
    ClusterError,
    CorpusError,
    EngineError,
    ExportError,
    FileError,
    ImageError,
    KbuildError,
    NotReproducibleError,
    ProgramError,
    RealKernelError,
    ScenarioError,
    ScheduleError,
    StoppedError,
    MitigationError,
    UserCodeError,
)
