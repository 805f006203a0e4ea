"""The benchmark `solvers`: every solver and its peers on common problems."""
