"""How nodes come to be and how the gateway is reached: one room per backend, all behind the seam of `base`."""
