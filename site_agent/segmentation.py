"""Segment a case on its original grid with a package's network."""

import torch

from algorithms.contracts.model_package import PreprocessingRecipe
from algorithms.contracts.volume import Mask
from algorithms.inference import predict, torch_predictor
from algorithms.networks import UNet2d
from algorithms.training import device
from site_agent.case_store import CaseStore


def segment(store: CaseStore, case_id: str, network: UNet2d, recipe: PreprocessingRecipe) -> Mask:
    """Segment one case on its original grid (step 10)."""
    predictor = torch_predictor(network.to(device()), patch_yx=recipe.patch_yx)
    return predict(store.volume(case_id), recipe, predictor)


def use_threads(threads: int) -> None:
    """Set how many CPU threads the methods use; 0 leaves the default."""
    if threads:
        torch.set_num_threads(threads)
