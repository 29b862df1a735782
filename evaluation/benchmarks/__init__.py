"""Every figure of the project comes from here: phantoms, packs, the demo and the benchmarks."""
