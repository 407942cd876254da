"""Compiled kernel code as programs of the machine: images, and the instructions in them.

Layer: beside `litmus`; imports machine and kbuild only. Needs the extra `compiled`. Tests: tests/compiled/.
`build` makes an image from a tree (in `make_folder`, of `read_files`), `image` loads one, `closure` says what a
function of it reaches.
"""
