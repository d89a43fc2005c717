"""ScienceQA in four settings: Lu et al. 2022, arXiv 2209.09513; settings of github.com/katja-kolos/foundation_models."""
