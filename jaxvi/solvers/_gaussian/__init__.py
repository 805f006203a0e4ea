"""What solvers of Gaussian families share: updates, step control, convergence, sparsity."""
