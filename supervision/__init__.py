"""Keeps the processes of a party running: one supervisor for each, the same for both parties."""
