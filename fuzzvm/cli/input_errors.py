"""Which errors the user can do something about: one line on stderr, exit status 2.

A module of its own, since it needs all layers: only a command that has failed imports it.
"""

from __future__ import annotations

from fuzzvm.compiled.errors import ImageError
from fuzzvm.corpus.errors import CorpusError
from fuzzvm.explore.campaign import NotReproducibleError
from fuzzvm.explore.campaigns.errors import CampaignError
from fuzzvm.explore.cluster.errors import ClusterError
from fuzzvm.explore.engines import EngineError
from fuzzvm.export.errors import ExportError
from fuzzvm.files.errors import FileError
from fuzzvm.kbuild.errors import KbuildError
from fuzzvm.machine.errors import ProgramError, ScheduleError, StoppedError
from fuzzvm.mitigations.errors import MitigationError
from fuzzvm.realkernel.errors import RealKernelError
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
