"""Parts of solvers for Gaussian families: updates, step control, convergence, Hessian sparsity."""
