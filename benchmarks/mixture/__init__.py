"""The benchmark `mixture`: the Bayesian Gaussian mixture beside scikit-learn's."""
