"""Forms that a plan can take as files. Pure: each module has one function, ``render(plan) → FileTree``."""
