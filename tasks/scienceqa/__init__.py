"""ScienceQA (Lu et al. 2022, arXiv 2209.09513) in the four settings of github.com/katja-kolos/foundation_models."""
