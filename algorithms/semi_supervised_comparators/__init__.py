"""Other ways to learn from few labels and many images, to be compared with (5.3)."""
