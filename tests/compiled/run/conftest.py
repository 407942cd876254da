"""An image of functions drawn at random, for all tests that run them."""

from __future__ import annotations

import pytest

from fuzzvm.compiled.image import Image, load
from tests.compiled import small
from tests.compiled.run import random_code

PAIRS = 30


@pytest.fixture(scope="session")
def random_image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The small kernel with so many pairs of functions, random_N_0 and random_N_1."""
    head = '#include "small.h"\n\nstruct static_key huge_vmap_disabled;\n'
    edit = {"mm/vmalloc.c": (head, head + random_code.source(1, PAIRS))}
    return load(small.build_image(tmp_path_factory.mktemp("random"), edits=edit))
