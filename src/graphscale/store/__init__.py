"""A graph on disk in the order in which training reads it: a folder of ``.npy`` files and a manifest.

Nodes lie in cluster order, so a batch is a few slices of each file. Arrays are memory-mapped, never
unpickled; a folder is written aside, flushed and renamed, so it is whole or absent.

| file               | holds                                                             |
|--------------------|-------------------------------------------------------------------|
| indptr, indices    | [N + 1], [E] in-edges of every node, columns sorted within a row  |
| weight, edge_attr  | [E], [E, D] in the order of indices; optional                     |
| x                  | [N, F], or x_indptr, x_indices, x_values where features are sparse|
| y                  | [N] classes, -1 unlabelled, or [N, C]                             |
| train, val, test   | [N, S] splits                                                     |
| part_ptr, node_id  | [P + 1] clusters; [N] the caller's ids                            |
| manifest.json      | format version, shapes, types, checksums, how it was made         |
"""

from graphscale.store.folder import created, is_store, manifest_of
from graphscale.store.reading import read, splits, verify
from graphscale.store.writing import write

__all__ = ["created", "is_store", "manifest_of", "read", "splits", "verify", "write"]
