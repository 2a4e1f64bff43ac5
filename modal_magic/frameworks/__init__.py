"""What is set up inside a rank: one room per framework, all behind the seam of `base`."""
