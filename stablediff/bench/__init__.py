"""The fair side-by-side: the same work by this package and by others, each in a process of its own."""
