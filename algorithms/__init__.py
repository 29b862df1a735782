"""Methods of fedgtv: pure functions from arrays and modules to arrays and modules.

Kept free of imports so that a coordinator host can load `algorithms.contracts` without torch.
"""
