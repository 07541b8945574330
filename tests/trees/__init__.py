"""Small copies of published data sets, in the layout they are published in."""

from trees import birds, medical, natural
from trees.registry import TREES, Tree, noise, rectangle, save, tree, write, write_idx

__all__ = ["TREES", "Tree", "birds", "medical", "natural", "noise", "rectangle", "save", "tree", "write", "write_idx"]
