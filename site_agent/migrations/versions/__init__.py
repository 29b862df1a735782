"""The revisions, in one line: 0001, 0002 and so on. None changes once it was released."""
