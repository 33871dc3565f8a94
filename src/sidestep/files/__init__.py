"""Files: what is to be written, and the one way of writing it.

A reader sees the old content or the new, never a part: every file is complete before a rename puts it in place. Envoy
watches for exactly those renames (facts/envoy.md c).
"""

from sidestep.files.swap import write_set
from sidestep.files.tree import File, FileTree, Manifest, exclusive, put_in_place, staged, write_file
from sidestep.files.writing import Output, locked, translated

__all__ = [
    "File",
    "FileTree",
    "Manifest",
    "Output",
    "exclusive",
    "locked",
    "put_in_place",
    "staged",
    "translated",
    "write_file",
    "write_set",
]
