"""One image of the small kernel for all tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzzvm.compiled.image import Image, load
from tests.compiled import small


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an image: 4K pages, 3 levels, LSE, gcc."""
    return small.build_image(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def small_image(small_folder: Path) -> Image:
    """That image, loaded."""
    return load(small_folder)


@pytest.fixture(scope="session")
def small_x86_64(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The small kernel for x86_64: 4 levels, gcc."""
    return load(small.build_image(tmp_path_factory.mktemp("small-x86"), arch="x86_64", features=("SMALL",)))
