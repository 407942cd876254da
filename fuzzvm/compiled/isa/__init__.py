"""What the instruction sets share: how the effect of an instruction is stated, and how code of such effects is run.

    slots        the slots of the register file that every instruction set has
    expressions  what an instruction computes, as data
    effects      what an instruction does, as data
    instruction  one instruction of the code
    generate     Python code for instructions
    engine       runs code up to the next access
    access       an access with its values
    private      memory that one CPU alone uses
    liveness     which registers the code may still read

The instruction sets themselves are `arm64` and `x86_64`. Tests: tests/compiled/arm64/, tests/compiled/x86_64/.
"""
