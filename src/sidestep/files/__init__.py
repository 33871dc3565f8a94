"""Files: what is to be written, and how: a tree of them, or a set that changes as one.

A reader sees the old content or the new, never a part: every file is complete before a rename puts it in place. Envoy
watches for exactly those renames (facts/envoy.md c).
"""

from sidestep.files.ownership import as_owner, foreign_owners
from sidestep.files.reading import NotAFile, digest_of, read
from sidestep.files.swap import write_set
from sidestep.files.tree import FileTree, Manifest, Staged, exclusive, in_place, staged
from sidestep.files.writing import File, Output, announce, create, locked, translated

__all__ = [
    "File",
    "FileTree",
    "Manifest",
    "NotAFile",
    "Output",
    "Staged",
    "announce",
    "as_owner",
    "create",
    "digest_of",
    "exclusive",
    "foreign_owners",
    "in_place",
    "locked",
    "read",
    "staged",
    "translated",
    "write_set",
]
