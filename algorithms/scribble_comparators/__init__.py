"""Other ways to learn from scribbles, behind one interface, to be compared with (4.3.3)."""
