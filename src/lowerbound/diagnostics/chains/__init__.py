"""Short Hamiltonian chains from draws of q: the check of every fit, and the repair of many."""
