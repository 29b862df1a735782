"""Pages an oncologist uses, inside the hospital."""
