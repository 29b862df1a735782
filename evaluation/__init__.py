"""Numbers and reports: pure measures over masks and rows, and the study report built from them."""
