"""fuzzvm: property-based fuzzing and verification of the interleavings of vmalloc and ptdump."""

__version__ = "0.1.0"
